"""Tokens of an identity provider that answers over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from imaging.errors import BadParameter, ProviderAway, Unauthenticated
from serving.guard import keys
from serving.guard.identity import Identity, Role
from serving.guard.oidc import Provider, Verifier, read_provider
from tests.serving.guard import provider as made
from tests.serving.guard.provider import Server, public, serving

ROLES = {"radiology": frozenset({Role.SEGMENT}), "it": frozenset({Role.ADMIN})}


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    shared.keys = [public(made.RSA_KEY, "rsa", alg="RS256", use="sig")]
    shared.asked.clear()
    shared.answer.clear()
    shared.delay = 0.0
    return shared


class Clock:
    """Seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticks = Clock()
    defaults = keys.Keys.__init__.__defaults__
    assert defaults == (time.monotonic,)
    monkeypatch.setattr(keys.Keys.__init__, "__defaults__", (ticks,))
    return ticks


def provider(server: Server, **more: Any) -> Provider:
    given: dict[str, Any] = {
        "issuer": server.issuer,
        "audience": ("islet",),
        "roles": ROLES,
        "roles_claim": ("realm_access", "roles"),
    }
    return Provider(**(given | more))


def identify(server: Server, token: str, **more: Any) -> Identity:
    return asyncio.run(Verifier(provider(server, **more)).identify(token))


def test_a_token_of_the_provider_is_taken(server: Server) -> None:
    assert identify(server, server.token()) == Identity("oidc:alice", frozenset({Role.SEGMENT}))
    assert server.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]
    server.asked.clear()
    identify(server, server.token(), jwks=server.jwks)
    assert server.asked == ["/realm/keys"]


@pytest.mark.parametrize(
    ("key", "alg"),
    [(made.RSA_KEY, "PS256"), (made.EC_KEY, "ES256"), (made.ED_KEY, "EdDSA")],
)
def test_other_signatures(server: Server, key: Any, alg: str) -> None:
    server.keys = [public(key, "k"), {"kty": "oct", "k": "AAAA", "kid": "x"}, "no key", {"kty": 3}]
    assert identify(server, server.token(key, "k", alg)).subject == "oidc:alice"
    with pytest.raises(Unauthenticated):
        identify(server, server.token(key, "k", alg), algorithms=("RS512",))


NOW = int(time.time())


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": NOW - 3600},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": NOW + 3600},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 201},
    ],
)
def test_a_token_that_says_something_wrong(server: Server, wrong: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        identify(server, server.token(**wrong))
    # All refusals are one: nothing is learned from them.
    assert refused.value.as_dict() == {
        "code": "unauthenticated",
        "message": "This needs a valid token; send `Authorization: Bearer TOKEN`.",
        "details": {},
    }


def test_a_token_with_another_signature(server: Server) -> None:
    pem = made.RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    server.keys.append({"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"})
    server.keys.append(public(made.WEAK_RSA_KEY, "weak"))
    server.keys.append(public(made.OTHER_RSA_KEY, "for-encryption", use="enc"))
    good = server.token()
    head, body, signature = good.split(".")
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        weak = server.token(made.WEAK_RSA_KEY, "weak")
    wrong = (
        server.token(made.OTHER_RSA_KEY),
        server.token(kid=None),
        server.token(kid="unknown"),
        server.token(alg="RS512"),
        server.token(alg="PS256"),
        server.token(made.EC_KEY, alg="ES256"),
        weak,
        server.token(made.OTHER_RSA_KEY, "for-encryption"),
        jwt.encode(server.claims(), None, algorithm="none", headers={"kid": "rsa"}),
        # The published key as a shared secret, and a secret that stands among the keys.
        _forge({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, body, pem),
        _forge({"alg": "HS256", "kid": "secret", "typ": "JWT"}, body, b"secret"),
        f"{head}.{_encode(server.claims(sub='root'))}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        "no-token",
        "..",
        "a.b.c",
        f"{_encode([[]])}.{body}.{signature}",
        "{}.{}.{}".format(base64.urlsafe_b64encode(b"[" * 6000).decode(), body, signature),
    )

    async def story() -> None:
        verifier = Verifier(provider(server))
        for token in wrong:
            with pytest.raises(Unauthenticated):
                await verifier.identify(token)
        assert (await verifier.identify(good)).subject == "oidc:alice"

    asyncio.run(story())


def _forge(header: dict[str, str], body: str, secret: bytes) -> str:
    signed = f"{_encode(header)}.{body}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _encode(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_the_clocks_may_differ_a_little(server: Server) -> None:
    late = server.token(exp=time.time() - 20)
    assert identify(server, late).subject == "oidc:alice"
    with pytest.raises(Unauthenticated):
        identify(server, late, leeway_s=5)


@pytest.mark.parametrize(
    ("claims", "path", "roles"),
    [
        ({"realm_access": {"roles": ["it", "radiology", 3]}}, None, {Role.ADMIN, Role.SEGMENT}),
        ({"realm_access": {"roles": ["nurses"]}}, None, set()),
        ({"realm_access": ["it"]}, None, set()),
        ({"realm_access": None}, None, set()),
        ({"groups": ["it"]}, ("groups",), {Role.ADMIN}),
        ({"groups": "radiology it"}, ("groups",), {Role.ADMIN, Role.SEGMENT}),
        ({"groups": {"it": True}}, ("groups",), set()),
        ({"https://h.example/r": ["it"]}, ("https://h.example/r",), {Role.ADMIN}),
    ],
)
def test_roles(
    server: Server, claims: dict[str, Any], path: tuple[str, ...] | None, roles: set[Role]
) -> None:
    more = {} if path is None else {"roles_claim": path}
    assert identify(server, server.token(**claims), **more).roles == roles


def test_scopes_and_the_claim_of_the_subject(server: Server) -> None:
    assert identify(server, server.token(), scopes=("islet", "openid")).subject == "oidc:alice"
    listed = server.token(scope=None, scp=["islet"])
    assert identify(server, listed, scopes=("islet",)).subject == "oidc:alice"
    for wrong in ("islet2", None, 3, ["islets"]):
        with pytest.raises(Unauthenticated):
            identify(server, server.token(scope=wrong), scopes=("islet",))
    named = server.token(preferred_username="a.smith")
    assert identify(server, named, subject_claim="preferred_username").subject == "oidc:a.smith"


def test_a_new_key_is_found_and_an_old_one_goes(server: Server, clock: Clock) -> None:
    async def story() -> None:
        verifier = Verifier(provider(server, jwks=server.jwks))
        old, new = server.token(), server.token(made.OTHER_RSA_KEY, "new")
        for _ in range(3):
            await verifier.identify(old)
        assert len(server.asked) == 1

        server.keys = [public(made.OTHER_RSA_KEY, "new")]
        # Whoever invents key ids does not make the service flood its provider.
        for number in range(5):
            with pytest.raises(Unauthenticated):
                await verifier.identify(server.token(kid=f"invented-{number}"))
        assert len(server.asked) == 1
        clock.now += 11
        await verifier.identify(new)
        assert len(server.asked) == 2
        with pytest.raises(Unauthenticated):
            await verifier.identify(old)

        # A key that was withdrawn goes when the keys are next fetched, beside the requests.
        server.keys = [public(made.RSA_KEY, "rsa")]
        clock.now += 301
        await verifier.identify(new)
        await verifier._keys._asking  # type: ignore[misc]
        with pytest.raises(Unauthenticated):
            await verifier.identify(new)
        await verifier.identify(old)

    asyncio.run(story())


def test_while_the_provider_is_away_its_known_keys_do(server: Server, clock: Clock) -> None:
    async def story() -> None:
        verifier = Verifier(provider(server, jwks=server.jwks))
        server.answer["/realm/keys"] = 503, {}, b""
        with pytest.raises(ProviderAway, match="does not answer") as away:
            await verifier.identify(server.token())
        assert away.value.details["retry_after_s"] == 10

        del server.answer["/realm/keys"]
        clock.now += 11
        await verifier.identify(server.token())
        server.answer["/realm/keys"] = 503, {}, b""
        clock.now += 3600
        for _ in range(3):
            await verifier.identify(server.token())
            await verifier._keys._asking  # type: ignore[misc]
        clock.now += 11
        with pytest.raises(ProviderAway):
            await verifier.identify(server.token(made.OTHER_RSA_KEY, "new"))
        clock.now += 24 * 3600
        with pytest.raises(ProviderAway):
            await verifier.identify(server.token())

    asyncio.run(story())


def test_a_slow_provider_holds_up_only_who_needs_a_new_key(server: Server, clock: Clock) -> None:
    async def story() -> None:
        verifier = Verifier(provider(server, jwks=server.jwks))
        await verifier.identify(server.token())
        server.keys.append(public(made.OTHER_RSA_KEY, "new"))
        server.delay = 1.0
        clock.now += 301
        new = server.token(made.OTHER_RSA_KEY, "new")
        waiting = [asyncio.create_task(verifier.identify(new)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await verifier.identify(server.token())
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        assert (await waiting[1]).subject == (await waiting[2]).subject == "oidc:alice"
        assert len(server.asked) == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"Location": "/realm/elsewhere"}, b""),
        (200, {}, b"[]"),
        (200, {}, b"no json"),
        (200, {}, b'{"keys": []}'),
        (200, {}, b'{"keys": 3}'),
        (200, {}, b" " * (1 << 21)),
        (200, {}, b'{"issuer": "https://another.example", "jwks_uri": "https://a.example"}'),
        (200, {}, b'{"issuer": "ISSUER", "jwks_uri": "http://keys.example/"}'),
        (200, {}, b'{"issuer": "ISSUER"}'),
        (200, {}, b'{"issuer": "ISSUER", "jwks_uri": "file:///etc/passwd"}'),
    ],
)
def test_an_answer_without_keys_is_no_answer(
    server: Server, answer: tuple[int, dict[str, str], bytes]
) -> None:
    status, headers, body = answer
    path = "/realm/.well-known/openid-configuration"
    server.answer[path] = status, headers, body.replace(b"ISSUER", server.issuer.encode())
    with pytest.raises(ProviderAway):
        identify(server, server.token())
    assert server.asked == [path]


def test_the_file(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "oidc.toml"
    path.write_text(
        f"""
        issuer = "{server.issuer}"
        audience = "islet"
        roles_claim = "realm_access.roles"
        scopes = ["islet"]
        leeway_s = 10
        [roles]
        radiology = "segment"
        it = ["read", "admin"]
        """
    )
    read = read_provider(path)
    assert read.roles == {
        "radiology": frozenset({Role.SEGMENT}),
        "it": frozenset({Role.READ, Role.ADMIN}),
    }
    assert (read.audience, read.roles_claim) == (("islet",), ("realm_access", "roles"))
    found = asyncio.run(Verifier(read).identify(server.token()))
    assert found == Identity("oidc:alice", frozenset({Role.SEGMENT}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("issuer = 'http://id.hospital.example'", "https://"),
        ("issuer = 'ftp://127.0.0.1'", "https://"),
        ("issuer = 3", "no text"),
        ("jwks = 'http://10.0.0.1/keys'", "https://"),
        ("algorithms = ['RS256', 'HS256']", "HS256 sign nothing"),
        ("algorithms = ['none']", "none sign nothing"),
        ("algorithms = []", "sign nothing"),
        ("audience = []", "must not be empty"),
        ("audience = 3", "audience is no text"),
        ("leeway_s = 4000", "0 to 300"),
        ("leeway_s = '5'", "no whole number"),
        ("roles = {}", "must not be empty"),
        ("roles = ['it']", "no table"),
        ("roles = {it = 'root'}", "not a valid Role"),
        ("verify = false", "no field 'verify'"),
        ("= ", "no TOML"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    fields = {
        "issuer": "'https://id.hospital.example'",
        "audience": "'islet'",
        "roles": "{it = 'admin'}",
    }
    name, _, value = text.partition("= ")
    fields[name.strip()] = value
    path = tmp_path / "oidc.toml"
    path.write_text("\n".join(f"{n} = {v}" for n, v in fields.items()))
    with pytest.raises(BadParameter, match=message) as refused:
        read_provider(path)
    assert "oidc.toml" in refused.value.message


def test_a_missing_field_file_or_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "oidc.toml"
    with pytest.raises(BadParameter, match="cannot be read"):
        read_provider(path)
    path.write_text("issuer = 'https://id.hospital.example'\naudience = 'islet'")
    with pytest.raises(BadParameter, match="'roles' is missing"):
        read_provider(path)
    path.write_text(f"{path.read_text()}\nca = 'missing.pem'\nroles = {{it = 'admin'}}")
    with pytest.raises(BadParameter, match=r"missing\.pem cannot be read"):
        Verifier(read_provider(path))
