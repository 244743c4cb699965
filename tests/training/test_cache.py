"""The cache: the same case as without it, made once, never half there."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.errors import DataError
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.manifest import Intensity, Sampling
from tests.training.tiny import arrays, flat, grid, volumetric
from training import cache
from training.cache import cached
from training.cases import Case, load
from training.prepared import Prepared, prepare
from training.recipe import Augment
from training.samples import Sampler

RECIPE = volumetric(sampling=Sampling((3.0, 2.0, 2.0)))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Blocks as files."""
    hu, labels = arrays()
    write_nifti(Volume(hu, grid(hu.shape)), tmp_path / "ct.nii.gz")
    write_nifti(Volume(labels, grid(hu.shape)), tmp_path / "label.nii.gz")
    values = {1: "pancreas", 3: "kidney"}
    return Case(
        "one", tmp_path / "ct.nii.gz", tmp_path / "label.nii.gz", values, ("pancreas", "kidney")
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that were read from their own files."""
    names: list[str] = []

    def counted(case: Case) -> Any:
        names.append(case.name)
        return load(case)

    monkeypatch.setattr(cache, "load", counted)
    return names


def _same(one: Prepared, other: Prepared) -> bool:
    plain = [f.name for f in dataclasses.fields(Prepared) if f.name != "centres"]
    equal = all(np.array_equal(getattr(one, n), getattr(other, n)) for n in plain)
    types = (one.hu.dtype, one.labels.dtype) == (other.hu.dtype, other.labels.dtype)
    centres = one.centres.keys() == other.centres.keys() and all(
        v.dtype == other.centres[n].dtype and np.array_equal(v, other.centres[n])
        for n, v in one.centres.items()
    )
    return equal and types and centres


def _entry(folder: Path) -> Path:
    (entry,) = folder.iterdir()
    return entry


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        flat(),
        volumetric(
            outputs=("pancreas", "kidney", "kidney_tumor"), lesion_free=("kidney_tumor",), slab=1
        ),
    ],
)
def test_what_comes_back_is_what_prepare_gives(case: Case, folder: Path, recipe: Any) -> None:
    plain = prepare(load(case), recipe)
    first, second = cached(case, recipe, folder), cached(case, recipe, folder)
    assert _same(first, plain)
    assert _same(second, plain)
    assert {type(second.slices), type(second.annotated)} == {tuple}
    for array in (first.hu, first.labels, second.hu, second.labels):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_float_voxels_stay_float(case: Case, folder: Path) -> None:
    hu = arrays()[0] + np.float32(0.25)
    write_nifti(Volume(hu, grid(hu.shape)), case.image)
    assert cached(case, RECIPE, folder).hu.dtype == np.float32
    assert _same(cached(case, RECIPE, folder), prepare(load(case), RECIPE))


def test_the_second_time_reads_none_of_the_cases_files(
    case: Case, folder: Path, loads: list[str]
) -> None:
    first = cached(case, RECIPE, folder)
    for path in (case.image, case.label):
        assert path is not None
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert _same(cached(case, RECIPE, folder), first)
    assert loads == ["one"]


def test_batches_are_those_of_the_plain_case(case: Case, folder: Path) -> None:
    recipe = volumetric(
        outputs=("pancreas", "kidney", "kidney_tumor"),
        lesion_free=("kidney_tumor",),
        plant=1.0,
        augment=Augment(rotate_deg=(15.0, 0.0, 0.0), organ_hu=20.0, noise_hu=10.0),
    )
    plain, kept = prepare(load(case), recipe), cached(case, recipe, folder)
    assert kept.plantable == ("kidney_tumor",)
    for step in range(4):
        one, other = Sampler([plain], recipe).batch(step), Sampler([kept], recipe).batch(step)
        for name, tensor in vars(one).items():
            assert np.array_equal(tensor, vars(other)[name]), name
    assert _same(kept, plain)


Change = Callable[[Case], tuple[Case, Any]]


def _touched(case: Case) -> tuple[Case, Any]:
    os.utime(case.image, ns=(0, case.image.stat().st_mtime_ns + 1))
    return case, RECIPE


def _grown(case: Case) -> tuple[Case, Any]:
    stat = case.image.stat()
    case.image.write_bytes(case.image.read_bytes() + b"\0")
    os.utime(case.image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return case, RECIPE


@pytest.mark.parametrize(
    "change",
    [
        _touched,
        _grown,
        lambda c: (
            dataclasses.replace(c, image=c.image.rename(c.image.with_name("moved.nii.gz"))),
            RECIPE,
        ),
        lambda c: (dataclasses.replace(c, name="two"), RECIPE),
        lambda c: (dataclasses.replace(c, values={1: "pancreas", 3: "liver"}), RECIPE),
        lambda c: (dataclasses.replace(c, annotated=("kidney",)), RECIPE),
        lambda c: (c, dataclasses.replace(RECIPE, sampling=Sampling((3.0, 2.0, 2.1)))),
        lambda c: (c, dataclasses.replace(RECIPE, outputs=("pancreas",))),
        lambda c: (c, dataclasses.replace(RECIPE, intensity=Intensity((-100.0, 200.0)))),
        lambda c: (c, dataclasses.replace(RECIPE, slab=1)),
    ],
)
def test_what_changes_the_result_is_another_entry(
    case: Case, folder: Path, loads: list[str], change: Change
) -> None:
    cached(case, RECIPE, folder)
    old = _entry(folder)
    changed, recipe = change(case)
    assert _same(cached(changed, recipe, folder), prepare(load(changed), recipe))
    assert len(loads) == 2
    # The old key's entry is left alone.
    assert len(list(folder.iterdir())) == 2
    assert old.is_dir()


def test_what_changes_nothing_is_the_same_entry(case: Case, folder: Path, loads: list[str]) -> None:
    cached(case, RECIPE, folder)
    cached(case, dataclasses.replace(RECIPE, name="other", steps=9, seed=8), folder)
    cached(dataclasses.replace(case, source={"name": "renamed"}), RECIPE, folder)
    assert loads == ["one"]


def test_every_file_of_a_folder_and_every_mask_counts(case: Case, tmp_path: Path) -> None:
    home = tmp_path / "series"
    home.mkdir()
    inside = case.image.rename(home / "ct.nii.gz")
    assert case.label is not None
    mask = tmp_path / "mask.nii.gz"
    write_nifti(Volume((arrays()[1] == 3).astype(np.uint8), grid(arrays()[1].shape)), mask)
    masked = dataclasses.replace(
        case, image=home, label=None, values={}, masks={"kidney": (mask,)}, annotated=("kidney",)
    )
    folder = tmp_path / "cache"
    assert list(cached(masked, RECIPE, folder).centres) == ["kidney"]
    cached(masked, RECIPE, folder)
    assert len(list(folder.iterdir())) == 1
    for count, path in enumerate((inside, mask), 2):
        os.utime(path, ns=(0, 1))
        cached(masked, RECIPE, folder)
        assert len(list(folder.iterdir())) == count


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize("name", ["hu.npy", "labels.npy", "prepared.json"])
def test_a_damaged_entry_is_made_again(
    case: Case, folder: Path, loads: list[str], name: str, damage: Callable[[Path], None]
) -> None:
    cached(case, RECIPE, folder)
    plain = prepare(load(case), RECIPE)
    entry = _entry(folder)
    damage(entry / name)
    assert _same(cached(case, RECIPE, folder), plain)
    assert _same(cached(case, RECIPE, folder), plain)
    assert loads == ["one", "one"]
    assert _entry(folder) == entry


def test_a_foreign_entry_is_made_again(case: Case, folder: Path, loads: list[str]) -> None:
    cached(case, RECIPE, folder)
    entry = _entry(folder)
    other = dataclasses.replace(case, name="two")
    cached(other, RECIPE, folder)
    (foreign,) = set(folder.iterdir()) - {entry}
    for path in entry.iterdir():
        path.unlink()
    for path in foreign.iterdir():
        path.rename(entry / path.name)
    assert cached(case, RECIPE, folder).name == "one"
    assert loads == ["one", "two", "one"]


def test_a_file_in_an_entrys_place_is_replaced(case: Case, folder: Path) -> None:
    cached(case, RECIPE, folder)
    entry = _entry(folder)
    entry.rename(folder.with_name("gone"))
    entry.write_bytes(b"no folder")
    cached(case, RECIPE, folder)
    assert _entry(folder).is_dir()


def test_a_corrupt_case_names_itself_and_leaves_nothing(case: Case, folder: Path) -> None:
    whole = case.image.read_bytes()
    case.image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="Case one: The file ends") as caught:
        cached(case, RECIPE, folder)
    assert caught.value.details["case"] == "one"
    assert not folder.exists()
    case.image.unlink()
    with pytest.raises(DataError, match=r"Case one: ct\.nii\.gz cannot be read"):
        cached(case, RECIPE, folder)


# After the first array, and after both.
@pytest.mark.parametrize("name", ["_measured", "_described"])
def test_what_stops_the_writing_leaves_nothing(
    case: Case, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, name, stop)
    with pytest.raises(KeyboardInterrupt):
        cached(case, RECIPE, folder)
    assert not list(folder.iterdir())
    monkeypatch.undo()
    assert _same(cached(case, RECIPE, folder), prepare(load(case), RECIPE))


# Another process with the same case and recipe; "die" kills it between two files of its entry.
_OTHER = """
import os, sys
from pathlib import Path
from training import cache
from training.cases import Case
from training.recipe import Recipe
image, label, folder, recipe, fate = sys.argv[1:]
values = {1: "pancreas", 3: "kidney"}
case = Case("one", Path(image), Path(label), values, ("pancreas", "kidney"))
if fate == "die":
    cache._described = lambda _: os._exit(9)
print("ready", flush=True)
input()
kept = cache.cached(case, Recipe.from_json(recipe), Path(folder))
print(kept.hu.sum(), kept.labels.sum())
"""


def _start(case: Case, folder: Path, fate: str) -> subprocess.Popen[str]:
    """The process, at the brink of its call of ``cached``."""
    given = [str(case.image), str(case.label), str(folder), RECIPE.to_json(), fate]
    process = subprocess.Popen(
        [sys.executable, "-c", _OTHER, *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(cache.__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_process_leaves_no_entry(case: Case, folder: Path, loads: list[str]) -> None:
    process = _start(case, folder, "die")
    process.communicate("go\n", timeout=60)
    assert process.returncode == 9
    left = _entry(folder)
    assert left.name.startswith(".")
    assert _same(cached(case, RECIPE, folder), prepare(load(case), RECIPE))
    assert loads == ["one"]
    # It may still be written to, as far as anyone knows; a day later it may not.
    assert left.is_dir()
    os.utime(left, (0, time.time() - 86400))
    _cut(next(p for p in folder.iterdir() if p != left) / "hu.npy")
    cached(case, RECIPE, folder)
    assert not left.exists()
    assert len(list(folder.iterdir())) == 1


def test_two_processes_at_once_end_well(case: Case, folder: Path) -> None:
    processes = [_start(case, folder, "live") for _ in range(2)]
    for process in processes:
        print("go", file=process.stdin, flush=True)
    plain = prepare(load(case), RECIPE)
    for process in processes:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert said.split() == [str(plain.hu.sum()), str(plain.labels.sum())]
    assert len(list(folder.iterdir())) == 1
    assert _same(cached(case, RECIPE, folder), plain)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_first_of_two_stays(
    case: Case, folder: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process puts its entry in place while this one prepares the case."""
    if damaged:
        cached(case, RECIPE, folder)
        _cut(_entry(folder) / "labels.npy")

    def slow(*args: Any) -> Prepared:
        monkeypatch.setattr(cache, "prepare", prepare)
        others.append(cached(case, RECIPE, folder))
        return prepare(*args)

    others: list[Prepared] = []
    monkeypatch.setattr(cache, "prepare", slow)
    mine = cached(case, RECIPE, folder)
    assert _same(mine, others[0])
    assert _same(mine, prepare(load(case), RECIPE))
    assert Path(mine.hu.filename).parent == _entry(folder)


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EMFILE, "ulimit"), (errno.EACCES, "can be read and written")]
)
def test_a_disk_that_refuses_is_told_and_the_entry_kept(
    case: Case, folder: Path, number: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(case, RECIPE, folder)
    before = _entry(folder).stat().st_ino

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(DataError, match=f"Case one: the cache in .*{advice}"):
        cached(case, RECIPE, folder)
    monkeypatch.undo()
    assert _entry(folder).stat().st_ino == before


def test_a_full_disk_is_told_and_nothing_left(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match=r"Case one: the cache in .* make room on its disk"):
        cached(case, RECIPE, folder)
    assert not list(folder.iterdir())
