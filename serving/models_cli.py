"""What ``islet models`` and its sub-commands do.

Functions take parsed arguments and return an exit code; errors of the tree go up to the front
door, which prints them. The floor loads when a command runs, not when the line is parsed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.store import Store


def add_commands(commands: Any) -> None:
    """``islet models`` and what stands below it."""
    models = commands.add_parser("models", help="list the models of the store, or change it")
    models.set_defaults(command=show)
    kinds = models.add_subparsers(metavar="COMMAND")

    admit = kinds.add_parser("publish", help="take a model in, after it has passed every check")
    admit.set_defaults(command=publish)
    _add_file(admit)
    admit.add_argument(
        "--alias", nargs="+", default=[], help="to point at the new version, e.g. live"
    )

    look = kinds.add_parser("check", help="make every check of publish, and change nothing")
    look.set_defaults(command=check)
    _add_file(look)

    same = kinds.add_parser(
        "compare", help="see on CTs whether faster runtimes give a model's masks, and record it"
    )
    same.set_defaults(command=compare)
    same.add_argument("file", type=Path, help="an .onnx file; its manifest gets what was found")
    same.add_argument("ct", type=Path, nargs="+", help="NIfTI files, DICOM folders or archives")

    alias = kinds.add_parser("alias", help="point an alias at a version")
    alias.set_defaults(command=point)
    alias.add_argument("name")
    alias.add_argument("alias")
    alias.add_argument("version", type=int)

    gone = kinds.add_parser("remove", help="remove a version that no alias names, or an alias")
    gone.set_defaults(command=remove)
    gone.add_argument("reference", help="name@version or name@alias")


def show(_: argparse.Namespace) -> int:
    """List the models of the store, one version a line."""
    from models.store import default_store

    for line in model_lines(default_store()):
        print(line)
    return 0


def publish(args: argparse.Namespace) -> int:
    """Take ``args.file`` into the store, with ``args.manifest`` beside it or without one."""
    from models.door import admit
    from models.store import default_store

    model = admit(default_store(), args.file, _manifest(args), args.alias, _most())
    print(f"{model.reference}  {','.join(args.alias) or '-'}  sha256 {model.sha256}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Make every check that ``publish`` makes."""
    from models.door import check as look

    manifest = look(args.file, _manifest(args), _most())
    print(f"{manifest.name} passes: {manifest.dims}D, {','.join(manifest.outputs)}.")
    return 0


def compare(args: argparse.Namespace) -> int:
    """Compare the runtimes over ``args.ct``, and write it into ``args.file``."""
    from serving.engines.choice import SAME_DICE
    from serving.engines.compare import compare as see
    from serving.engines.compare import record

    found = see(args.file, args.ct)
    for name, dice in found.items():
        verdict = "may run it" if dice >= SAME_DICE else "is refused for it"
        print(f"{name}  least Dice of a mask {dice:.5f}: {verdict}")
    print(f"{record(args.file, found).name} has it in its manifest.")
    return 0


def point(args: argparse.Namespace) -> int:
    """Point ``args.alias`` of ``args.name`` at ``args.version``."""
    from models.store import default_store

    default_store().point(args.name, args.alias, args.version)
    print(f"{args.name}@{args.alias} is version {args.version}.")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove the version or the alias that ``args.reference`` names."""
    from imaging.errors import BadParameter
    from models.store import default_store

    name, _, tag = args.reference.partition("@")
    if not tag:
        raise BadParameter(
            f"{args.reference[:80]!r} names a whole model; name one version (name@3) or alias "
            "(name@global)."
        )
    if tag.isdecimal():
        default_store().remove(name, int(tag))
    else:
        default_store().unpoint(name, tag)
    print(f"{args.reference} is removed.")
    return 0


def model_lines(store: Store) -> list[str]:
    """One line a version: reference, aliases, architecture, structures, licence.

    A version whose file is broken has the code of what is wrong with it instead.
    """
    from serving.catalogue import entries

    lines = []
    for model in entries(store):
        for version in model["versions"]:
            number = version["version"]
            here = ",".join(a for a, v in model["aliases"].items() if v == number) or "-"
            lines.append(f"{version['reference']}  {here}  {_card(version)}")
    return lines or ["The store is empty; publish a model with `islet models publish`."]


def _card(version: dict[str, Any]) -> str:
    if "error" in version:
        return str(version["error"]["code"])
    manifest = version["manifest"]
    return f"{manifest['architecture']}  {','.join(manifest['outputs'])}  {manifest['licence']}"


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="an .onnx file")
    parser.add_argument(
        "--manifest", type=Path, help="JSON file, where the model does not describe itself"
    )


def _manifest(args: argparse.Namespace) -> str | None:
    from imaging.errors import BadParameter

    if args.manifest is None:
        return None
    if not args.manifest.is_file():
        raise BadParameter(f"There is no file {args.manifest}; --manifest takes a JSON file.")
    return str(args.manifest.read_text(errors="replace"))


def _most() -> int:
    """Bytes of the largest model that a service with these settings would load."""
    from serving.engines import largest_file
    from serving.settings import Settings

    return largest_file(Settings.from_environment().model_memory_mb)
