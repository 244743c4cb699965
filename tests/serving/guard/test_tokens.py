"""Tokens: hashes in a file, read again when it changes, and the commands that write it."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imaging.errors import BadParameter
from serving.guard import commands
from serving.guard.identity import Role
from serving.guard.tokens import (
    Token,
    TokenFile,
    changed_tokens,
    new_secret,
    read_tokens,
    sha256_of,
)

NOW = datetime.now(UTC)


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(path: Path, subject: str = "gateway", **more: object) -> str:
    secret = new_secret()
    entry = {"roles": frozenset({Role.SEGMENT}), "created": NOW} | more
    with changed_tokens(path) as tokens:
        tokens.append(Token(subject=subject, sha256=sha256_of(secret), **entry))
    return secret


def token(argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``islet token`` prints."""
    parser = _token_parser()
    args = parser.parse_args(argv.split())
    assert args.command(args) == 0
    return capsys.readouterr().out


def _token_parser():  # type: ignore[no-untyped-def]
    import argparse

    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers(required=True))
    return parser


def test_a_token_is_found_and_stands_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    secret = make(path, roles=frozenset({Role.READ, Role.SEGMENT}))
    other = make(path, "viewer", roles=frozenset({Role.READ}))

    assert secret not in path.read_text()
    assert secret[6:] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    tokens = TokenFile(path)
    found = tokens.identify(secret)
    assert found is not None
    assert (found.subject, found.roles) == ("gateway", {Role.READ, Role.SEGMENT})
    assert tokens.identify(other).subject == "viewer"  # type: ignore[union-attr]
    for wrong in (new_secret(), secret[:-1], secret + "A", secret.upper(), "", sha256_of(secret)):
        assert tokens.identify(wrong) is None


def test_a_password_that_somebody_hashed_by_hand_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    with changed_tokens(path) as tokens:
        tokens.append(Token("nurse", frozenset({Role.ADMIN}), sha256_of("geheim"), NOW))
    assert TokenFile(path).identify("geheim") is None


def test_expiry(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    past = make(path, expires=NOW - timedelta(seconds=1))
    future = make(path, expires=NOW + timedelta(days=1))
    tokens = TokenFile(path)
    assert tokens.identify(past) is None
    assert tokens.identify(future) is not None


def test_a_running_service_follows_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    first = make(path)
    tokens = TokenFile(path, clock)

    second = make(path, "viewer")
    assert tokens.identify(second) is None
    clock.now += 1.1
    assert tokens.identify(second) is not None

    path.write_text("[[token]]\nsubject = 3")
    clock.now += 1.1
    assert tokens.identify(first) is not None
    assert "stay in force" in caplog.text
    assert "subject is no text" in caplog.text

    path.unlink()
    clock.now += 1.1
    assert tokens.identify(first) is not None

    third = make(path, "third")
    clock.now += 1.1
    assert tokens.identify(first) is None
    assert tokens.identify(third) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("subject = 'a b'", "no subject"),
        ("subject = 'oidc:alice'", "no subject"),
        ("subject = 'local'", "no subject"),
        ("roles = []", "no role"),
        ("roles = ['root']", "'root' is not a valid Role"),
        ("roles = 3", "token 1 of tokens.toml"),
        ("sha256 = 'abc'", "64 hexadecimal"),
        ("created = '2026'", "no time"),
        ("expires = 2026-01-01T00:00:00", "time zone"),
        ("expires = 2026-01-01", "no time"),
        ("secret = 'x'", "fields are"),
    ],
)
def test_a_broken_entry_is_named(tmp_path: Path, change: str, message: str) -> None:
    fields = {
        "subject": "'gateway'",
        "roles": "['read']",
        "sha256": f"'{'0' * 64}'",
        "created": "2026-01-01T00:00:00Z",
    }
    name, value = change.split(" = ")
    lines = [f"{n} = {v}" for n, v in (fields | {name: value}).items()]
    path = tmp_path / "tokens.toml"
    path.write_text("[[token]]\n" + "\n".join(lines))
    path.chmod(0o600)
    with pytest.raises(BadParameter, match=re.escape(message)):
        read_tokens(path)


@pytest.mark.parametrize("text", ["token = 3", "token = ['x']", "[[token]]", "no toml"])
def test_a_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadParameter, match=r"tokens\.toml"):
        TokenFile(path)
    with pytest.raises(BadParameter, match="islet token new"):
        TokenFile(tmp_path / "missing.toml")


def test_a_file_that_others_write_is_refused_and_one_they_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.toml"
    make(path)
    assert "can be read by all" not in caplog.text
    path.chmod(0o644)
    assert len(read_tokens(path)) == 1
    assert "can be read by all" in caplog.text
    make(path, "second")
    assert path.stat().st_mode & 0o777 == 0o644
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(BadParameter, match="chmod 600"):
            read_tokens(path)


def test_many_who_add_tokens_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    threads = [threading.Thread(target=make, args=(path, f"s{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {t.subject for t in read_tokens(path)} == {f"s{n}" for n in range(12)}
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.toml"]


def test_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.toml"
    monkeypatch.setenv("ISLET_TOKENS", str(path))
    secret = token("token new gateway --role segment --days 90", capsys).strip()
    token("token new gateway --role read", capsys)
    token(f"token new viewer --role read --role admin --file {path}", capsys)

    assert TokenFile(path).identify(secret).roles == {Role.SEGMENT}  # type: ignore[union-attr]
    listed = token("token list", capsys)
    ids = [line.split()[0] for line in listed.splitlines()]
    assert sha256_of(secret).startswith(ids[0])
    assert secret not in listed
    until = (NOW + timedelta(days=90)).date().isoformat()
    assert f"gateway  segment  {until}" in listed
    assert "viewer  admin,read  never" in listed

    assert "1 revoked, 2 left" in token(f"token revoke {ids[0]}", capsys)
    assert TokenFile(path).identify(secret) is None
    assert "1 revoked, 1 left" in token("token revoke gateway", capsys)
    with pytest.raises(BadParameter, match="no token and no subject 'gateway'"):
        token("token revoke gateway", capsys)
    assert [t.subject for t in read_tokens(path)] == ["viewer"]
    token("token revoke viewer", capsys)
    assert "no tokens" in token("token list", capsys)


def test_the_commands_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISLET_TOKENS", raising=False)
    with pytest.raises(BadParameter, match="--file"):
        token("token list", capsys)
    path = tmp_path / "tokens.toml"
    with pytest.raises(BadParameter, match="--days is 0"):
        token(f"token new x --role read --days 0 --file {path}", capsys)
    with pytest.raises(BadParameter, match="no subject"):
        token(f"token new x/y --role read --file {path}", capsys)
    assert not path.exists()
    with pytest.raises(SystemExit):
        token(f"token new x --file {path}", capsys)
    assert tuple(commands.ROLES) == tuple(Role)
