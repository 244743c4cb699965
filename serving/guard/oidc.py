"""Tokens of the hospital's identity provider: signed JWTs, checked with its published keys."""

from __future__ import annotations

import logging
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt

from imaging.errors import BadParameter, IsletError
from serving.guard.identity import Identity, Role, unauthenticated
from serving.guard.keys import Keys

logger = logging.getLogger("islet.guard")

# Public-key signatures only: with a shared secret among them, a published key could sign.
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SUBJECT = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True)
class Provider:
    """An identity provider, and what its tokens must say.

    Attributes:
        issuer: the ``iss`` of its tokens, exactly.
        audience: one of these must be in ``aud``.
        roles: value of the roles' claim, such as a group, to what it grants here.
        roles_claim: where that value stands: keys from the outside in.
        jwks: URL of its keys; ``None`` asks the issuer's discovery document.
        algorithms: of signatures, some of :data:`ALGORITHMS`.
        scopes: that a token must all have, in ``scope`` or ``scp``.
        subject_claim: names the owner of what is asked for.
        leeway_s: seconds that the clocks may differ.
        ca: file of the certificates that its own is checked against; ``None`` takes the system's.

    Raises:
        BadParameter: a value outside its range.
    """

    issuer: str
    audience: tuple[str, ...]
    roles: Mapping[str, frozenset[Role]]
    roles_claim: tuple[str, ...] = ("roles",)
    jwks: str | None = None
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    scopes: tuple[str, ...] = ()
    subject_claim: str = "sub"
    leeway_s: int = 30
    ca: Path | None = None

    def __post_init__(self) -> None:
        check_url(self.issuer)
        if self.jwks is not None:
            check_url(self.jwks)
        wrong = sorted(set(self.algorithms) - set(ALGORITHMS))
        if wrong or not self.algorithms:
            raise BadParameter(
                f"The algorithms {', '.join(wrong) or '(none)'} sign nothing here; choose among "
                f"{', '.join(ALGORITHMS)}."
            )
        if not self.audience or not self.roles or not self.roles_claim:
            raise BadParameter("audience, roles and roles_claim must not be empty.")
        if not 0 <= self.leeway_s <= 300:
            raise BadParameter(f"leeway_s is {self.leeway_s}; set 0 to 300 seconds.")


def read_provider(path: Path) -> Provider:
    """The provider that a TOML file describes.

    Raises:
        BadParameter: the file cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadParameter(f"{path.name} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise BadParameter(f"{path.name} is no TOML: {error}.") from error
    known = [field.name for field in fields(Provider)]
    for name in given:
        if name not in known:
            raise BadParameter(f"{path.name} has no field {name!r}; there are {', '.join(known)}.")
    try:
        return _provider(given, path.parent)
    except KeyError as error:
        raise BadParameter(f"In {path.name} {error} is missing.") from error
    except (TypeError, ValueError) as error:
        raise BadParameter(f"In {path.name}: {error}.") from error
    except IsletError as error:
        raise BadParameter(f"In {path.name}: {error.message}") from error


def _provider(given: Mapping[str, Any], folder: Path) -> Provider:
    made = dict(given)
    for name in ("issuer", "jwks", "subject_claim"):
        if name in given and not isinstance(given[name], str):
            raise TypeError(f"{name} is no text")
    if not isinstance(given.get("leeway_s", 0), int):
        raise TypeError("leeway_s is no whole number")
    for name in ("audience", "algorithms", "scopes"):
        if name in given:
            made[name] = _words(name, given[name])
    if "roles_claim" in given:
        path = given["roles_claim"]
        made["roles_claim"] = tuple(path.split(".")) if isinstance(path, str) else tuple(path)
    if "ca" in given:
        made["ca"] = folder / given["ca"]
    if not isinstance(given["roles"], dict):
        raise TypeError("roles is no table of values of the claim and roles")
    made["roles"] = {
        value: frozenset(Role(role) for role in _words("roles", granted))
        for value, granted in given["roles"].items()
    }
    return Provider(**made)


def _words(name: str, given: Any) -> tuple[str, ...]:
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"{name} is no text and no list of texts")
    return tuple(words)


def check_url(url: str) -> str:
    """The URL itself.

    Raises:
        BadParameter: neither https nor http on this machine: keys that anyone on the way could
            exchange prove nothing.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return url
    raise BadParameter(f"{url[:200]!r} must begin with https://.")


class Verifier:
    """Says whose a provider's token is.

    Args:
        provider: whose tokens are taken.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        # Made now, so that a missing file of certificates stops the start.
        try:
            context = ssl.create_default_context(cafile=provider.ca)
        except OSError as error:
            raise BadParameter(f"ca {provider.ca} cannot be read ({error.strerror}).") from error
        well_known = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
        self._keys = Keys(provider.jwks or well_known, provider.issuer, context, check_url)

    async def identify(self, token: str) -> Identity:
        """Whose token it is.

        Raises:
            Unauthenticated: its form, signature, times, issuer, audience, scopes or subject are
                wrong; the log says which.
            ProviderAway: the key that it names is not known, and the provider does not answer.
        """
        try:
            header = jwt.get_unverified_header(token)
            claims = await self._claims(token, header)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            logger.info("a token was refused: %s", type(error).__name__)
            raise unauthenticated() from error
        subject = claims.get(self._provider.subject_claim)
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            logger.info("a token was refused: no usable %s", self._provider.subject_claim)
            raise unauthenticated()
        if missing := set(self._provider.scopes) - _scopes(claims):
            logger.info("a token was refused: no scope %s", ", ".join(sorted(missing)))
            raise unauthenticated()
        # The prefix keeps a person of the provider apart from a subject of the token file.
        return Identity(f"oidc:{subject}", self._roles(claims))

    async def _claims(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._provider.algorithms or not isinstance(kid, str):
            raise jwt.InvalidAlgorithmError
        key = await self._keys.find(kid)
        if key.algorithm not in (None, algorithm):
            raise jwt.InvalidAlgorithmError
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[algorithm],
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            leeway=self._provider.leeway_s,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )
        return claims

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[Role]:
        found: Any = claims
        for key in self._provider.roles_claim:
            found = found.get(key) if isinstance(found, dict) else None
        values = found.split() if isinstance(found, str) else found
        if not isinstance(values, list):
            return frozenset()
        granted = (self._provider.roles.get(v, frozenset()) for v in values if isinstance(v, str))
        return frozenset[Role]().union(*granted)


def _scopes(claims: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name, ())
        words = value.split() if isinstance(value, str) else value
        if isinstance(words, list):
            found.update(word for word in words if isinstance(word, str))
    return found
