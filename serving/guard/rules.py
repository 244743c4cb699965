"""What is open, what needs which role, and what a service without tokens may be asked.

A path that is not in :data:`PATHS` is not there for anybody.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import click
from starlette.datastructures import Headers

from imaging.errors import BadParameter, Forbidden
from serving.guard.identity import Role
from serving.guard.tokens import read_tokens
from serving.settings import Settings

logger = logging.getLogger("islet.guard")


@dataclass(frozen=True)
class Rule:
    """Of one path, or of all below one.

    Attributes:
        path: whole, or with ``/*`` at its end for what is below it.
        role: that is needed; ``None`` asks for no token.
        inside: whether the application there checks the role of each endpoint itself.
    """

    path: str
    role: Role | None = None
    inside: bool = False

    @property
    def route(self) -> str:
        """What stands for the path in the audit log."""
        return self.path.replace("*", "{path}")

    def fits(self, path: str) -> bool:
        """Whether a request's path is this rule's."""
        if self.path.endswith("/*"):
            return path.startswith(self.path[:-1])
        return path == self.path


# The first that fits decides. Under /v1 a token is needed; which role, each endpoint says.
PATHS: tuple[Rule, ...] = (
    Rule("/"),
    Rule("/ui/*"),
    Rule("/livez"),
    Rule("/healthz"),
    Rule("/readyz"),
    Rule("/metrics", Role.READ),
    Rule("/v1/*", Role.READ, inside=True),
    # Says whether a token is needed, and takes one from a client that asks for a password.
    Rule("/monailabel/auth/"),
    Rule("/monailabel/auth/token"),
    Rule("/monailabel/*", Role.SEGMENT),
    # BentoML's own descriptions of a service.
    Rule("/schema.json", Role.ADMIN),
    Rule("/docs.json", Role.ADMIN),
    Rule("/static_content/*", Role.ADMIN),
    Rule("/assets/*", Role.ADMIN),
)

# Where BentoML listens unasked.
_EVERYWHERE = "0.0.0.0"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def rule_of(path: str) -> Rule | None:
    """The rule of a request's path; ``None`` where there is none.

    Paths that a server behind might read in another way (``..``, ``//``, backslashes) have none.
    """
    between = path.split("/")[1:-1]
    if "\\" in path or "" in between or {".", ".."} & set(path.split("/")):
        return None
    return next((rule for rule in PATHS if rule.fits(path)), None)


def is_open(settings: Settings) -> bool:
    """Whether the service asks for no tokens at all."""
    return settings.tokens is None and settings.oidc is None


def check_exposure(host: str, settings: Settings) -> None:
    """Refuse to start what must not be reachable; called before the service listens.

    Args:
        host: address that it will listen on.
        settings: name the files of tokens and of the identity provider, which are read here.

    Raises:
        BadParameter: no tokens, and an address that other machines reach; or a file is broken.
    """
    if settings.tokens is not None:
        read_tokens(settings.tokens)
    if settings.oidc is not None:
        # Brings HTTP and cryptography along; most services have no provider.
        from serving.guard.oidc import read_provider

        read_provider(settings.oidc)
    if not is_open(settings):
        return
    if not is_loopback(host):
        raise BadParameter(
            f"The service would listen on {host}, where other machines reach it, and asks for no "
            "tokens. Make some (islet token new NAME --role segment --file tokens.toml) and set "
            "ISLET_TOKENS, or set ISLET_OIDC, or listen on 127.0.0.1.",
            host=host,
        )
    logger.warning("no tokens: anyone on this machine may ask")


def asked_host() -> str:
    """The address that the ``bentoml serve`` under way was asked to listen on; all, if none."""
    context = click.get_current_context(silent=True)
    while context is not None:
        if "host" in context.params:
            return str(context.params["host"] or _EVERYWHERE)
        context = context.parent
    return _EVERYWHERE


def check_local(method: str, headers: Headers, server: Sequence[object] | None) -> None:
    """Refuse what a service without tokens must not answer.

    A page of another site that the user looks at can send requests to this machine, and under a
    name that it points here (DNS rebinding) it can read the answers.

    Args:
        method: of the request.
        headers: of the request.
        server: address and port that it came in at.

    Raises:
        Forbidden: it came from another machine, by another name, or from another site's page.
    """
    host = headers.get("host", "")
    if server is None or not is_loopback(str(server[0])):
        raise Forbidden("Without tokens only this machine is answered; set ISLET_TOKENS.")
    if len(headers.getlist("host")) != 1 or not is_loopback(_name_of(host)):
        raise Forbidden("Without tokens the service answers to localhost and 127.0.0.1 alone.")
    if any(name in headers for name in _FORWARDED):
        raise Forbidden("Without tokens nothing is answered through a proxy; set ISLET_TOKENS.")
    origin = headers.get("origin")
    if origin is not None and method not in _SAFE_METHODS and urlsplit(origin).netloc != host:
        raise Forbidden("A page of another site asks; only this service's own page may.")


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own, for certain."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """A Host header without its port; empty when it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
