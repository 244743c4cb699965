"""What is installed is what was tested: exact versions, all of them, and hashes for the page's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!+]*)(?: *;.*)?")
# What an environment is made with; constraints are for what is installed into it.
WITH_PYTHON = {"pip", "setuptools", "wheel"}
EXTRAS = ("dev", "dimse", "federation", "openvino", "serving", "tracking", "training")


def pins(text: str) -> dict[str, str]:
    """Version by distribution.

    Raises:
        ValueError: a line that pins nothing, or a distribution twice.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pin = PIN.fullmatch(line.strip())
        if pin is None or _plain(pin[1]) in found:
            raise ValueError(f"{line!r} pins nothing, or a second time.")
        found[_plain(pin[1])] = pin[2]
    return found


def needed() -> Iterator[str]:
    """Every distribution that the project's extras bring along, as far as it is installed."""
    waiting = [("islet-ct", extra) for extra in ("", *EXTRAS)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        yield _plain(name)
        for text in wanted:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                more = {(_plain(one.name), e) for e in ("", *one.extras)} - seen
                seen |= more
                waiting += more


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text())
    found = set(needed()) - {"islet-ct", *WITH_PYTHON}
    assert len(found) > 100
    assert sorted(found - set(pinned)) == []


def test_every_pin_is_an_exact_version() -> None:
    assert len(pins((ROOT / "constraints.txt").read_text())) > 150


@pytest.mark.parametrize(
    "line", ["torch>=2", "torch", "torch==2.*", "torch~=2.1", "git+https://x.example/torch"]
)
def test_a_line_that_pins_nothing_is_caught(line: str) -> None:
    with pytest.raises(ValueError, match="pins nothing"):
        pins(f"numpy==2.0.0\n{line}\n")


def test_what_the_page_is_built_from_has_hashes() -> None:
    lock = json.loads((ROOT / "serving/ui/package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert entry.get("resolved", "https://").startswith("https://"), name
