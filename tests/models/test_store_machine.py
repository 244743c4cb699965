"""The store against two dictionaries, with a reader between any two steps and a publisher killed.

In ``make test`` the examples are few and the same every time; ``ISLET_EXAMPLES=500 pytest
tests/models/test_store_machine.py`` draws that many anew, each of three times as many steps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from imaging.errors import BadManifest, BadParameter, CorruptModel, ModelNotFound
from models.store import Store
from tests.machines import before_every_step, budget
from tests.models.manifests import manifest
from tests.models.onnx_graphs import write

NAMES = ("tiny", "b.2")
ALIASES = ("live", "global")
ANY = st.sampled_from


class StoreMachine(RuleBasedStateMachine):
    """What may happen to models; ``kind`` is the store that it happens to."""

    kind: ClassVar[type[Store]] = Store

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="islet-test-"))
        self.store = self.kind(self.folder / "store", behind=())
        self.reader = Store(self.folder / "store", behind=())
        # What was published as each version, ``None`` once it is removed; and what is broken.
        self.versions: dict[str, list[bytes | None]] = {}
        self.pointed: dict[tuple[str, str], int] = {}
        self.broken: set[tuple[str, int]] = set()
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(name=ANY(NAMES), aliases=st.lists(ANY(ALIASES), max_size=2))
    def publish(self, name: str, aliases: list[str]) -> None:
        file = self._file(name)
        with self._read_meanwhile(name, {(name, a): self._next(name) for a in aliases}):
            made = self.store.publish(file, aliases)
        self._published(name, file, aliases)
        assert made.version == len(self.versions[name])
        assert made.read() == file.read_bytes()

    @rule(name=ANY(NAMES), alias=ANY(ALIASES), step=st.integers(0, 40))
    def publisher_is_killed(self, name: str, alias: str, step: int) -> None:
        file, version = self._file(name), self._next(name)
        before = self.pointed.get((name, alias))
        _killed_at(step, lambda: self.store.publish(file, [alias]))
        if version not in self.store.versions(name):
            assert self.store.aliases(name).get(alias) == before
            # Its number may be free or not, but no other model has it.
            return
        moved = self.store.aliases(name).get(alias)
        assert moved in (before, version)
        self._published(name, file, [alias] if moved == version else [])

    @precondition(lambda self: self.versions)
    @rule(name=ANY(NAMES), alias=ANY(ALIASES), version=st.integers(0, 4))
    def point(self, name: str, alias: str, version: int) -> None:
        if version in self._there(name):
            with self._read_meanwhile(name, {(name, alias): version}):
                self.store.point(name, alias, version)
            self.pointed[name, alias] = version
        else:
            with pytest.raises(ModelNotFound):
                self.store.point(name, alias, version)

    @precondition(lambda self: self.versions)
    @rule(name=ANY(NAMES), version=st.integers(1, 4))
    def remove(self, name: str, version: int) -> None:
        named = (name, version) in {(n, v) for (n, _), v in self.pointed.items()}
        if version not in self._there(name):
            with pytest.raises(ModelNotFound):
                self.store.remove(name, version)
        elif named:
            with pytest.raises(BadParameter):
                self.store.remove(name, version)
        else:
            with self._read_meanwhile(name, {}):
                self.store.remove(name, version)
            self.versions[name][version - 1] = None

    @rule(name=ANY(NAMES), alias=ANY(ALIASES))
    def unpoint(self, name: str, alias: str) -> None:
        if self.pointed.pop((name, alias), None) is not None:
            self.store.unpoint(name, alias)
        else:
            with pytest.raises(ModelNotFound):
                self.store.unpoint(name, alias)

    @precondition(lambda self: self.versions)
    @rule(name=ANY(NAMES), version=st.integers(1, 4), flip=st.booleans())
    def file_is_damaged(self, name: str, version: int, flip: bool) -> None:
        if version not in self._there(name):
            return
        path = self.folder / "store" / name / str(version) / "model.onnx"
        whole = self.versions[name][version - 1] or b""
        # A weight of another value, or an end that is missing.
        path.write_bytes(whole.replace(b"factor", b"fActor") if flip else whole[:-20])
        self.broken.add((name, version))
        with pytest.raises((CorruptModel, BadManifest)):
            self.store.resolve(f"{name}@{version}")

    @rule()
    def files_are_mended(self) -> None:
        for name, version in self.broken:
            path = self.folder / "store" / name / str(version) / "model.onnx"
            if version in self._there(name):
                path.write_bytes(self.versions[name][version - 1] or b"")
        self.broken.clear()

    @rule()
    def open_again(self) -> None:
        self.store = self.kind(self.folder / "store", behind=())

    @rule(name=ANY(NAMES), tag=ANY((*ALIASES, "1", "2", "3")))
    def resolve(self, name: str, tag: str) -> None:
        version = int(tag) if tag.isdecimal() else self.pointed.get((name, tag), 0)
        if version not in self._there(name):
            with pytest.raises(ModelNotFound):
                self.store.resolve(f"{name}@{tag}")
        elif (name, version) in self.broken:
            with pytest.raises((CorruptModel, BadManifest)):
                self.store.resolve(f"{name}@{tag}")
        else:
            made = self.store.resolve(f"{name}@{tag}")
            assert (made.version, made.read()) == (version, self.versions[name][version - 1])

    @invariant()
    def lists_agree(self) -> None:
        assert self.store.names() == sorted(n for n in self.versions if self._there(n))
        for name in self.versions:
            assert self.store.versions(name) == self._there(name)
            assert self.store.aliases(name) == {
                alias: v for (n, alias), v in sorted(self.pointed.items()) if n == name
            }

    def _file(self, name: str) -> Path:
        """A model that is like no other."""
        self.count += 1
        return write(self.folder / "x.onnx", manifest(name=name), float(self.count))

    def _next(self, name: str) -> int:
        return len(self.versions.get(name, [])) + 1

    def _published(self, name: str, file: Path, aliases: list[str]) -> None:
        self.versions.setdefault(name, []).append(file.read_bytes())
        self.pointed |= {(name, alias): len(self.versions[name]) for alias in aliases}

    def _there(self, name: str) -> list[int]:
        made = enumerate(self.versions.get(name, []), 1)
        return [version for version, data in made if data is not None]

    @contextmanager
    def _read_meanwhile(self, name: str, moving: dict[tuple[str, str], int]) -> Iterator[None]:
        """Between any two steps of a change every alias is what it was, or what it becomes."""
        before, there = dict(self.pointed), self._there(name)

        def read() -> None:
            for (owner, alias), version in before.items():
                if owner == name:
                    found = self.reader.aliases(name).get(alias)
                    assert found in (version, moving.get((name, alias), version))
            assert len(set(there) - set(self.reader.versions(name))) <= 1
            for version in self.reader.versions(name):
                self._read_version(name, version)

        with before_every_step(read):
            yield

    def _read_version(self, name: str, version: int) -> None:
        """A version that may be read is whole."""
        if (name, version) not in self.broken:
            data = self.reader.resolve(f"{name}@{version}").read()
            known = self.versions.get(name, [])
            assert version > len(known) or data == known[version - 1]


def _killed_at(step: int, change: object) -> None:
    """Make a change in a process that is gone, without a word, before so many steps of it."""
    child = os.fork()
    if not child:
        left = iter(range(step))
        with before_every_step(lambda: next(left, None) is None and os._exit(9)):
            change()  # type: ignore[operator]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 9)


class Hasty(Store):
    """Moves an alias in two steps."""

    def point(self, name: str, alias: str, version: int) -> None:
        super().point(name, "moving", version)
        folder = self.root / name / "aliases"
        (folder / alias).unlink(missing_ok=True)
        (folder / "moving").rename(folder / alias)


class Careless(Store):
    """Puts a version in its place before it is whole."""

    def _claim(self, staging: Path, name: str) -> int:
        whole = (staging / "model.onnx").read_bytes()
        (staging / "model.onnx").write_bytes(whole[:-20])
        version = super()._claim(staging, name)
        (self.root / name / str(version) / "model.onnx").write_bytes(whole)
        return version


class Spendthrift(Store):
    """Gives the number of a removed version to the next one."""

    def remove(self, name: str, version: int) -> None:
        super().remove(name, version)
        shutil.rmtree(self.root / name / str(version))


def test_the_store_holds_in_any_order_of_events() -> None:
    run_state_machine_as_test(StoreMachine, settings=budget(15, 15))


@pytest.mark.parametrize("broken", [Hasty, Careless, Spendthrift])
def test_a_broken_store_is_caught(broken: type[Store]) -> None:
    machine = type("Broken", (StoreMachine,), {"kind": broken})
    with pytest.raises((AssertionError, CorruptModel)):
        run_state_machine_as_test(machine, settings=budget(40, 15, shrink=False))
