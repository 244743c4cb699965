"""The guard: everything that is asked of the service passes it, and is refused by default."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imaging.errors import BadParameter, IsletError, Unauthenticated
from serving.guard.audit import SCOPE_KEY as AUDIT_KEY
from serving.guard.audit import AuditLog, line_of
from serving.guard.bounds import Presence, Strikes
from serving.guard.identity import LOCAL, Identity, require, unauthenticated
from serving.guard.identity import SCOPE_KEY as IDENTITY_KEY
from serving.guard.passage import Passage
from serving.guard.rules import Rule, check_local, is_open, rule_of
from serving.guard.tokens import PREFIX, TokenFile
from serving.settings import Settings
from serving.statuses import ROUTER_CODES

# A provider's token may carry many groups; more is no token.
_LONGEST_TOKEN = 16384
_NOT_FOUND = 404


class Guard:
    """ASGI middleware around the whole service.

    Args:
        app: what it guards.
        settings: files of tokens, identity provider and audit log; without the first two only
            this machine is answered.

    Raises:
        BadParameter: one of the files cannot be used.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._addresses = settings.audit_addresses
        self._open = is_open(settings)
        self._bounds = settings.bounds
        self._tokens = TokenFile(settings.tokens) if settings.tokens else None
        self._verifier = None
        if settings.oidc:
            # Brings HTTP and cryptography along; most services have no provider.
            from serving.guard.oidc import Verifier, read_provider

            self._verifier = Verifier(read_provider(settings.oidc))
        self._audit = AuditLog(settings.audit) if settings.audit else None
        self._presence = Presence(self._bounds.at_once)
        self._strikes = Strikes(self._bounds.wrong_tokens, self._bounds.window_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._pass(scope, receive, send)
        else:
            await _close(receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        rule = rule_of(scope["path"])
        guarded = rule is None or rule.role is not None
        passage = Passage(scope, receive, send, self._bounds, guarded)
        facts = scope[AUDIT_KEY] = {"route": rule.route if rule else "/{path}"}
        identity: Identity | None = None
        try:
            identity = await self._admit(scope, rule)
            # Who floods the service does not stop it from saying that it lives.
            with self._presence.of(identity.subject) if guarded and identity else nullcontext():
                await self._through(scope, rule, passage, facts)
        except IsletError as error:
            if passage.status is not None:
                raise
            facts["code"] = error.code
            await passage.refuse(error)
        finally:
            if guarded or "code" in facts:
                self._note(scope, passage, facts, identity)

    async def _through(
        self, scope: Scope, rule: Rule | None, passage: Passage, facts: dict[str, str]
    ) -> None:
        if rule is None:
            facts["code"] = ROUTER_CODES[_NOT_FOUND]
            message = "Not Found; /v1/openapi.json says what there is."
            body = {"code": facts["code"], "message": message, "details": {}}
            await passage.answer(_NOT_FOUND, {"error": body}, {})
            return
        try:
            await self._app(scope, passage.receive, passage.send)
        except ClientDisconnect:
            if not passage.given_up:
                raise
        slow = await passage.finish()
        if slow is not None:
            facts["code"] = slow.code

    async def _admit(self, scope: Scope, rule: Rule | None) -> Identity | None:
        """Who asks; ``None`` where the path is open to all.

        Raises:
            IsletError: who asks may not.
        """
        headers = Headers(scope=scope)
        if self._open:
            check_local(scope["method"], headers, scope.get("server"))
            scope[IDENTITY_KEY] = LOCAL
            self._check_query(scope)
            return LOCAL
        if rule is not None and rule.role is None:
            return None
        identity = await self._identify(headers, scope)
        scope[IDENTITY_KEY] = identity
        self._check_query(scope)
        # Inside such an application each endpoint names its own role.
        if rule is not None and rule.role is not None and not rule.inside:
            require(identity, rule.role)
        return identity

    def _check_query(self, scope: Scope) -> None:
        if len(scope["query_string"]) > self._bounds.query_bytes:
            raise BadParameter(
                f"The query has {len(scope['query_string'])} bytes, over the limit of "
                f"{self._bounds.query_bytes}; send parameters as fields of a form.",
                limit=self._bounds.query_bytes,
            )

    async def _identify(self, headers: Headers, scope: Scope) -> Identity:
        given = headers.getlist("authorization")
        if not given:
            raise unauthenticated()
        try:
            return await self._identity_of(given)
        except Unauthenticated:
            client = scope.get("client")
            self._strikes.strike(str(client[0]) if client else "")
            raise

    async def _identity_of(self, given: list[str]) -> Identity:
        scheme, _, token = given[0].partition(" ")
        if len(given) != 1 or scheme.lower() != "bearer" or len(token) > _LONGEST_TOKEN:
            raise unauthenticated()
        if token.startswith(PREFIX):
            found = self._tokens.identify(token) if self._tokens else None
            if found is None:
                raise unauthenticated()
            return found
        if self._verifier is None:
            raise unauthenticated()
        return await self._verifier.identify(token)

    def _note(
        self, scope: Scope, passage: Passage, facts: dict[str, str], identity: Identity | None
    ) -> None:
        if self._audit is None:
            return
        client = scope.get("client") if self._addresses else None
        self._audit.write(
            line_of(
                facts,
                scope["method"],
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                subject=identity.subject if identity else None,
                address=client[0] if client else None,
                status=passage.status,
                bytes_in=passage.bytes_in,
                bytes_out=passage.bytes_out,
                seconds=round(passage.seconds, 3),
            )
        )


async def _close(receive: Receive, send: Send) -> None:
    """Refuse a websocket: the service has none."""
    message: Message = await receive()
    if message["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": 1008})
