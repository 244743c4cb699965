"""Prepared cases kept on disk, so that no epoch and no second training resamples a CT again.

A cache is a folder with one entry a key: ``KEY/hu.npy`` and ``KEY/labels.npy``, mapped into memory
when a case is drawn from, and ``KEY/prepared.json`` with the rest. Folders that begin with a dot
are being written. Any entry may be deleted at any time; it is made again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal import isal_zlib

from imaging.errors import DataError
from imaging.version import VERSION
from models.labels import STRUCTURES
from models.manifest import Intensity
from training.cases import Case, load
from training.prepared import Prepared, prepare
from training.recipe import Recipe

# Goes up whenever ``training.cases.load`` or ``training.prepared.prepare`` gives something else
# for the same files and recipe, or an entry is stored in another way.
_FORMAT = 2
_ARRAYS = ("hu", "labels")
_DESCRIPTION = "prepared.json"
_PIECE = 2**20
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# A folder that is still unfinished after so many seconds was left behind by a killed process.
_ABANDONED_S = 6 * 3600


def cached(case: Case, recipe: Recipe, folder: Path) -> Prepared:
    """A case on the recipe's grid, out of the cache where it is there, else put there first.

    Several processes may share a folder: each writes aside and puts its entry in place in one
    step, and the first one's stays. An entry that is damaged, truncated or of another key is made
    again. The arrays are read-only maps of the entry's files, HU in the dtype that
    :func:`training.prepared.prepare` gives, and hold two open files a case.

    Args:
        case: where the CT and its labels lie. Files of another path, size or time of change are
            another key; the entries of older keys stay.
        recipe: only what ``prepare`` reads of it is part of the key.
        folder: of the cache, made where missing.

    Raises:
        DataError: of :func:`training.cases.load` and ``prepare``; a file of the case that is not
            there; a cache that cannot be read or written (its disk is full, too many open files).
    """
    key = _key(case, recipe)
    entry = folder / key
    with _named(case, folder):
        found = _open(entry, key)
    if found is None:
        prepared = prepare(load(case), recipe)
        with _named(case, folder):
            folder.mkdir(parents=True, exist_ok=True)
            found = _keep(prepared, entry, key)
    return found


@contextmanager
def _named(case: Case, folder: Path) -> Iterator[None]:
    """What the disk refuses, as an error that names the case and what to do."""
    try:
        yield
    except OSError as error:
        fixes = {
            errno.EMFILE: "raise the limit on open files with `ulimit -n`",
            errno.ENOSPC: "make room on its disk or name another folder",
        }
        fix = fixes.get(error.errno or 0, "name a folder that can be read and written")
        raise DataError(
            f"Case {case.name}: the cache in {folder} fails ({error.strerror or error}); {fix}.",
            case=case.name,
        ) from error


def _key(case: Case, recipe: Recipe) -> str:
    """SHA-256 of everything that the prepared case depends on."""
    names = ("outputs", "sampling", "intensity", "slab", "lesion_free")
    settings = dataclasses.asdict(recipe)
    facts = {
        "format": [_FORMAT, VERSION],
        "structures": [(s.name, s.value, s.parent) for s in STRUCTURES],
        "recipe": {name: settings[name] for name in names},
        "name": case.name,
        "group": case.group,
        "values": sorted(case.values.items()),
        "annotated": case.annotated,
        "files": list(_files(case)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _files(case: Case) -> Iterator[tuple[str, str, int, int]]:
    """What each file of a case is for, its path, bytes and time of change in nanoseconds."""
    sources = [("image", case.image)]
    if case.label is not None:
        sources.append(("label", case.label))
    sources += [(name, path) for name, paths in case.masks.items() for path in paths]
    for role, source in sources:
        below = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        for path in below:
            try:
                stat = path.stat()
            except OSError as error:
                raise DataError(
                    f"Case {case.name}: {path.name} cannot be read ({error.strerror}); put it "
                    "back or leave the case out.",
                    case=case.name,
                ) from error
            yield role, str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _open(entry: Path, key: str) -> Prepared | None:
    """The entry with its arrays mapped; ``None`` where there is no whole one of this key."""
    try:
        stored = json.loads((entry / _DESCRIPTION).read_text(encoding="utf-8"))
        facts = stored["facts"]
        if stored["crc32"] != _crc_of(facts) or facts["key"] != key:
            return None
        for name in _ARRAYS:
            if _measured(_array_path(entry, name)) != facts["arrays"][name]:
                return None
        return Prepared(**_undescribed(facts["case"]), **_mapped(entry))
    except (*_NOT_THERE, ValueError, KeyError, TypeError):
        return None


def _keep(prepared: Prepared, entry: Path, key: str) -> Prepared:
    """Put a case into the cache; the arrays that come back are maps of the files there."""
    _sweep(entry)
    aside = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{key}.", suffix=".part"))
    try:
        _write(prepared, aside, key)
        # Mapped before it is put in place: whatever others do with the entry then, these stay.
        kept = dataclasses.replace(prepared, **_mapped(aside))
        if _moved(aside, entry):
            return kept
        found = _open(entry, key)
        if found is None:
            _discard(entry)
            _moved(aside, entry)
        return found or kept
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _moved(source: Path, target: Path) -> bool:
    """Rename in one step; ``False`` where another process was faster or something is there."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    _sync_folder(target.parent)
    return True


def _discard(entry: Path) -> None:
    """Take a damaged entry away in one step."""
    prefix = f".{entry.name}."
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=prefix, suffix=".part") as away:
        _moved(entry, Path(away) / "damaged")


def _write(prepared: Prepared, aside: Path, key: str) -> None:
    arrays = {}
    for name in _ARRAYS:
        path = _array_path(aside, name)
        with path.open("wb") as file:
            np.save(file, np.ascontiguousarray(getattr(prepared, name)))
            _sync(file)
        arrays[name] = _measured(path)
    facts = {"key": key, "arrays": arrays, "case": _described(prepared)}
    with (aside / _DESCRIPTION).open("wb") as file:
        file.write(json.dumps({"crc32": _crc_of(facts), "facts": facts}).encode())
        _sync(file)
    _sync_folder(aside)
    aside.chmod(0o755)


def _described(prepared: Prepared) -> dict[str, Any]:
    """All but the arrays, as JSON has it."""
    kept = {
        field.name: getattr(prepared, field.name)
        for field in dataclasses.fields(prepared)
        if field.name not in _ARRAYS
    }
    kept["intensity"] = dataclasses.asdict(prepared.intensity)
    kept["centres"] = {name: found.tolist() for name, found in prepared.centres.items()}
    return kept


def _undescribed(kept: dict[str, Any]) -> dict[str, Any]:
    """What :func:`_described` was given, out of JSON."""
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}
    values["intensity"] = Intensity(**kept["intensity"])
    values["centres"] = {n: np.array(v, dtype=np.int64) for n, v in kept["centres"].items()}
    return values


def _array_path(entry: Path, name: str) -> Path:
    return entry / f"{name}.npy"


def _mapped(entry: Path) -> dict[str, Any]:
    return {name: np.load(_array_path(entry, name), mmap_mode="r") for name in _ARRAYS}


def _measured(path: Path) -> dict[str, int]:
    """Bytes and CRC-32 of a file, header of the array included."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size += len(piece)
            crc = isal_zlib.crc32(piece, crc)
    return {"bytes": size, "crc32": crc}


def _crc_of(facts: dict[str, Any]) -> int:
    return int(isal_zlib.crc32(json.dumps(facts, sort_keys=True).encode()))


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make what was renamed into a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(entry: Path) -> None:
    """Remove what killed processes left of this entry."""
    for left in entry.parent.glob(f".{entry.name}.*.part"):
        try:
            abandoned = time.time() - left.stat().st_mtime > _ABANDONED_S
        except FileNotFoundError:
            continue
        if abandoned:
            shutil.rmtree(left, ignore_errors=True)
