"""``islet token``: the tokens of a service's file."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter

# The roles' names; written here, so that a command line does not load the guard to be parsed.
ROLES = ("read", "segment", "admin")


def add_commands(commands: Any) -> None:
    """Add ``token`` and its sub-commands to the command line's."""
    token = commands.add_parser("token", help="make, list and revoke the tokens of a service")
    kinds = token.add_subparsers(required=True, metavar="COMMAND")

    make = kinds.add_parser("new", help="make a token and print it, once")
    make.set_defaults(command=new)
    make.add_argument("subject", help="who will hold it; jobs belong to this name")
    make.add_argument(
        "--role",
        action="append",
        required=True,
        choices=ROLES,
        help="what it allows: read < segment < admin",
    )
    make.add_argument("--days", type=int, help="it expires after so many days (default: never)")
    make.add_argument("--note", default="", help="for yourself")
    _add_file(make)

    listed = kinds.add_parser("list", help="list the tokens, without giving them away")
    listed.set_defaults(command=list_tokens)
    _add_file(listed)

    gone = kinds.add_parser("revoke", help="remove tokens; a running service follows in a second")
    gone.set_defaults(command=revoke)
    gone.add_argument("which", help="id of a token, or a subject: all of its tokens")
    _add_file(gone)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, help="of the tokens (default: ISLET_TOKENS)")


def new(args: argparse.Namespace) -> int:
    """Make a token; it goes to standard output alone, so that it can be piped.

    Raises:
        BadParameter: a subject or a number of days outside its range, or a broken file.
    """
    from serving.guard.identity import Role
    from serving.guard.tokens import Token, changed_tokens, new_secret, sha256_of

    if args.days is not None and not 1 <= args.days <= 3650:
        raise BadParameter(f"--days is {args.days}; set 1 to 3650.")
    now = datetime.now(UTC).replace(microsecond=0)
    secret = new_secret()
    token = Token(
        subject=args.subject,
        roles=frozenset(map(Role, args.role)),
        sha256=sha256_of(secret),
        created=now,
        expires=None if args.days is None else now + timedelta(days=args.days),
        note=args.note,
    )
    path = _file(args)
    with changed_tokens(path) as tokens:
        tokens.append(token)
    print(f"Token {token.id} of {token.subject}, kept as a hash in {path}:", file=sys.stderr)
    print("it is shown this once.", file=sys.stderr)
    print(secret)
    return 0


def list_tokens(args: argparse.Namespace) -> int:
    """One line a token: id, subject, roles, expiry, note."""
    from serving.guard.tokens import read_tokens

    now = datetime.now(UTC)
    tokens = read_tokens(_file(args))
    for token in tokens:
        until = token.expires.date().isoformat() if token.expires else "never"
        if token.expired(now):
            until += " (expired)"
        roles = ",".join(sorted(token.roles))
        print(f"{token.id}  {token.subject}  {roles}  {until}  {token.note}".rstrip())
    if not tokens:
        print("There are no tokens; make one with `islet token new`.")
    return 0


def revoke(args: argparse.Namespace) -> int:
    """Remove the tokens of an id or a subject.

    Raises:
        BadParameter: there is none.
    """
    from serving.guard.tokens import changed_tokens

    path = _file(args)
    with changed_tokens(path) as tokens:
        left = [t for t in tokens if args.which not in (t.id, t.subject)]
        gone = len(tokens) - len(left)
        if not gone:
            raise BadParameter(
                f"{path.name} has no token and no subject {args.which[:64]!r}; see "
                "`islet token list`."
            )
        tokens[:] = left
    print(f"{gone} revoked, {len(left)} left.")
    return 0


def _file(args: argparse.Namespace) -> Path:
    if args.file is not None:
        return Path(args.file)
    if os.environ.get("ISLET_TOKENS"):
        return Path(os.environ["ISLET_TOKENS"]).expanduser()
    raise BadParameter("Which file? Give --file tokens.toml, or set ISLET_TOKENS.")
