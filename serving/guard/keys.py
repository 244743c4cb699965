"""The public keys of an identity provider, fetched beside the requests that need them."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt

from imaging.errors import IsletError, ProviderAway
from serving.guard.identity import unauthenticated

logger = logging.getLogger("islet.guard")

# Fetched again when older: a key that was withdrawn goes.
_FRESH_S = 300.0
# While the provider is away its last keys do for that long.
_STALE_S = 24 * 3600.0
# Between two questions, whatever tokens come: nobody makes the service flood its provider.
_PAUSE_S = 10.0
_FETCH_S = 5.0
_MOST_BYTES = 1 << 20
_PUBLIC = ("RSA", "EC", "OKP")


@dataclass(frozen=True)
class Key:
    """A key that signs.

    Attributes:
        public: of ``cryptography``.
        algorithm: the only one it may be used with, where the provider says so.
    """

    public: Any
    algorithm: str | None


class Keys:
    """Keys by id. A known key is found at once; only a token with an unknown one waits.

    PyJWT's own client asks in the request's thread under one lock, and forgets the keys that it
    has when they are old and the provider is away.

    Args:
        url: of the key set, or of the issuer's discovery document that names it.
        issuer: that the discovery document must name.
        context: that the provider's certificate is checked with.
        check: raises ``BadParameter`` for a URL that must not be asked.
        clock: seconds.
    """

    def __init__(
        self,
        url: str,
        issuer: str,
        context: ssl.SSLContext,
        check: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._issuer = issuer
        self._context = context
        self._check = check
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._fetched = -_STALE_S
        self._tried = -_PAUSE_S
        self._away = False
        self._asking: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> Key:
        """The key of that id.

        Raises:
            Unauthenticated: the provider has no such key.
            ProviderAway: it does not answer, and the key is not among those known.
        """
        known = kid in self._keys and self._age() < _STALE_S
        if not known or self._age() > _FRESH_S:
            asking = self._ask()
            if asking is not None and not known:
                # Shielded: others wait for the same answer when this client goes away.
                await asyncio.shield(asking)
        if kid in self._keys and self._age() < _STALE_S:
            return self._keys[kid]
        if self._away:
            raise ProviderAway(
                "The identity provider does not answer, so this token cannot be checked; try "
                "again later.",
                retry_after_s=round(_PAUSE_S),
            )
        logger.info("a token was refused: the provider has no key of its id")
        raise unauthenticated()

    def _age(self) -> float:
        return self._clock() - self._fetched

    def _ask(self) -> asyncio.Task[None] | None:
        """The question under way, or a new one where it is time for one."""
        if self._asking is not None and not self._asking.done():
            return self._asking
        if self._clock() - self._tried < _PAUSE_S:
            return None
        self._tried = self._clock()
        self._asking = asyncio.create_task(self._refresh())
        return self._asking

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_S):
                keys = await self._fetch()
        except (httpx.HTTPError, OSError, ValueError, TypeError, IsletError) as error:
            self._away = True
            logger.error("the identity provider's keys: %s: %s", type(error).__name__, error)
            return
        self._keys, self._fetched, self._away = keys, self._clock(), False

    async def _fetch(self) -> dict[str, Key]:
        async with httpx.AsyncClient(
            verify=self._context, timeout=_FETCH_S, follow_redirects=False
        ) as client:
            found = await _json(client, self._url)
            if "keys" not in found:
                if found.get("issuer") != self._issuer:
                    raise ValueError("the discovery document is another issuer's")
                found = await _json(client, self._check(str(found.get("jwks_uri"))))
        keys = {kid: key for kid, key in map(_key, found["keys"]) if kid is not None}
        usable = {kid: key for kid, key in keys.items() if key is not None}
        if not usable:
            raise ValueError("the key set holds no key that signs")
        return usable


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body.extend(chunk)
            if len(body) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise TypeError("no JSON object")
    return found


def _key(entry: Any) -> tuple[str | None, Key | None]:
    """A usable public key under its id, or none: sets hold keys for other purposes too."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return None, None
    if entry.get("kty") not in _PUBLIC or entry.get("use", "sig") != "sig":
        return None, None
    try:
        return entry["kid"], Key(jwt.PyJWK(entry).key, entry.get("alg"))
    except (jwt.PyJWTError, ValueError, TypeError):
        return None, None
