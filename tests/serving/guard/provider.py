"""An identity provider over real HTTP on loopback, with keys of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The published half of a key."""
    makers = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "Ed": OKPAlgorithm}
    made = next(maker for name, maker in makers.items() if type(key).__name__.startswith(name))
    return made.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | more


class Server:
    """What it answers, and what it was asked.

    Attributes:
        keys: the published set.
        asked: paths, in order.
        answer: path to a status, headers and body in place of the usual ones.
        delay: seconds before an answer.
    """

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}/realm"
        self.keys: list[dict[str, Any]] = [public(RSA_KEY, "rsa", alg="RS256", use="sig")]
        self.asked: list[str] = []
        self.answer: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.delay = 0.0

    @property
    def jwks(self) -> str:
        return f"{self.issuer}/keys"

    def usual(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """The answer to a path."""
        bodies: dict[str, Any] = {
            "/realm/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "jwks_uri": self.jwks,
            },
            "/realm/keys": {"keys": self.keys},
        }
        return (200, {}, json.dumps(bodies[path]).encode()) if path in bodies else (404, {}, b"")

    def claims(self, **more: Any) -> dict[str, Any]:
        """Claims that are taken; a claim of ``None`` is left out."""
        now = time.time()
        base = {"iss": self.issuer, "aud": "islet", "sub": "alice", "iat": now, "exp": now + 60}
        base |= {"realm_access": {"roles": ["radiology"]}, "scope": "openid islet"}
        return {name: value for name, value in (base | more).items() if value is not None}

    def token(
        self, key: Any = RSA_KEY, kid: str | None = "rsa", alg: str = "RS256", **more: Any
    ) -> str:
        """A signed token."""
        headers = {"kid": kid} if kid is not None else {}
        return jwt.encode(self.claims(**more), key, algorithm=alg, headers=headers)


@contextmanager
def serving() -> Iterator[Server]:
    """The provider on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            time.sleep(server.delay)
            status, headers, body = server.answer.get(self.path) or server.usual(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = Server(listening.server_port)
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
