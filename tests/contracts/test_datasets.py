"""One tester for every data set layout: canonical labels, geometry, disjoint cases, annotated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadParameter, DataError
from imaging.volume import Volume, to_canonical
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME, UNKNOWN_NAME
from tests.training.tiny import grid, write_decathlon
from training.cases import SPLITS, Case, load
from training.datasets import DATASETS, Layout, decathlon, layout_of, open_dataset
from training.datasets.layout import SOURCE
from training.datasets.make import MAKERS, make_set
from training.phantoms import PAINTED, Phantom, relabelled
from training.phantoms.sets import phantom_series

SHAPE, STYLE, SEED = (16, 32, 32), "b-thick-portal", 8


def check_layout(layout: Layout, folder: Path) -> list[Case]:
    """Everything that training takes for granted of a layout's cases."""
    assert layout.detect(folder)
    cases = layout.read(folder)
    assert cases
    files = [(case.image, case.label, *case.masks.values()) for case in cases]
    for what in ([case.name for case in cases], [f[0] for f in files], [f[1:] for f in files]):
        assert len(set(what)) == len(what), "two cases share a name or a file"
    for case in cases:
        assert case.annotated
        assert set(case.annotated) <= set(BY_NAME)
        labelled = {*case.values.values(), *case.masks} - {UNKNOWN_NAME}
        assert labelled <= set(case.annotated), "labelled, but not annotated"
        assert case.split in SPLITS
        assert {"name", "licence", "labels"} <= set(case.source)
        read = load(case)
        assert read.annotated == case.annotated
        assert read.labels.array.dtype == np.uint8
        assert read.image.geometry.close_to(read.labels.geometry)
        known = {0, *(BY_NAME[name].value for name in case.annotated)}
        present = set(np.unique(read.labels.array).tolist())
        assert present <= known
        assert present - {0}, "no label at all"
    assert [c.name for c in layout.read(folder)] == [c.name for c in cases], "order is stable"
    return cases


def same_voxels(read: Volume, made: Volume) -> bool:
    """Whether two volumes hold the same voxels at the same places."""
    first, second = to_canonical(read), to_canonical(made)
    near = first.geometry.close_to(second.geometry, 1e-3)
    return near and np.array_equal(first.array, second.array)


def blocks(seed: int, structures: tuple[str, ...]) -> Phantom:
    """A block for every structure on both sides of x = 0, labelled as the structures say."""
    rng = np.random.default_rng(seed)
    where = grid((2 * len(PAINTED) + 4, 12, 16))
    labels = np.zeros(where.shape, np.uint8)
    for index, name in enumerate(PAINTED):
        labels[2 * index + 1 : 2 * index + 3, 2:9, 1:6] = BY_NAME[name].value
        labels[2 * index + 1 : 2 * index + 3, 2:9, 10 : 12 + seed] = BY_NAME[name].value
    hu = rng.integers(-1024, 3000, where.shape).astype(np.int16)
    found = Volume(relabelled(labels, structures), where)
    return Phantom(Volume(hu, where), found, structures, ())


@cache
def phantoms(structures: tuple[str, ...]) -> list[Phantom]:
    return list(phantom_series(1, SEED, STYLE, SHAPE, structures))


@pytest.mark.parametrize("name", MAKERS)
def test_every_structure_comes_back(name: str, tmp_path: Path) -> None:
    maker = MAKERS[name]
    made = [blocks(seed, maker.structures) for seed in range(3)]
    maker.write(tmp_path, made)
    layout = name.partition(":")[0]
    assert [n for n, other in DATASETS.items() if other.detect(tmp_path)] == [layout]
    read = [load(case) for case in check_layout(DATASETS[layout], tmp_path)]
    assert len(read) == 3
    for one in made:
        (found,) = [r for r in read if same_voxels(r.image, one.volume)]
        assert same_voxels(found.labels, one.labels)
        assert set(found.annotated) == set(maker.structures)
        present = {BY_NAME[n].value for n in maker.structures}
        assert set(np.unique(found.labels.array)) == {0, *present}


@pytest.mark.parametrize("name", MAKERS)
def test_made_phantoms_come_back(name: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    make_set(name, out, 1, SEED, STYLE, SHAPE)
    assert layout_of(out) == name.partition(":")[0]
    cases = open_dataset(out)
    assert len(cases) == 1
    for case, made in zip(cases, phantoms(MAKERS[name].structures), strict=True):
        assert case.source["name"].startswith("procedural phantoms")
        assert case.source["licence"] == "Apache-2.0"
        read = load(case)
        assert same_voxels(read.image, made.volume)
        assert same_voxels(read.labels, made.labels)


def test_every_layout_can_be_made() -> None:
    assert {name.partition(":")[0] for name in MAKERS} == set(DATASETS)


def test_one_seed_one_set(tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_set("nih_pancreas", tmp_path / out, 1, seed, STYLE, (8, 16, 16))
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / o).rglob("*.dcm")} for o in "abc")
    assert a == b
    assert len(a) == 8
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"no layout .kits20.*decathlon:colon"):
        make_set("kits20", tmp_path, 1, 1)
    with pytest.raises(BadParameter, match="at least one case, not 0"):
        make_set("kits19", tmp_path, 0, 1)
    (tmp_path / "something").touch()
    with pytest.raises(BadParameter, match="is not empty"):
        make_set("kits19", tmp_path, 1, 1)


def test_a_stated_source_must_parse(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / SOURCE).write_text(text)
        with pytest.raises(DataError, match=f"{SOURCE} does not parse"):
            open_dataset(tmp_path)
    (tmp_path / SOURCE).write_text(json.dumps({"name": "mine", "licence": "CC0"}))
    assert [c.source for c in open_dataset(tmp_path)] == [{"name": "mine", "licence": "CC0"}] * 2


def _same_name(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, name="one") for case in decathlon.cases(folder)]


def _same_files(folder: Path) -> list[Case]:
    first = decathlon.cases(folder)[0]
    return [first, dataclasses.replace(first, name="copy")]


def _nothing_annotated(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, annotated=()) for case in decathlon.cases(folder)]


def _labels_unannotated(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, annotated=("pancreas",)) for case in decathlon.cases(folder)]


def _drops_the_labels(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, values={}) for case in decathlon.cases(folder)]


def _no_source(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, source={}) for case in decathlon.cases(folder)]


def _another_grid(folder: Path) -> list[Case]:
    cases = decathlon.cases(folder)
    labels = load(cases[0]).labels
    moved = folder / "moved.nii.gz"
    where = dataclasses.replace(labels.geometry, origin=(0.0, 0.0, 0.0))
    write_nifti(Volume(labels.array, where), moved)
    return [dataclasses.replace(cases[0], label=moved), *cases[1:]]


@pytest.mark.parametrize(
    "read",
    [
        _same_name,
        _same_files,
        _nothing_annotated,
        _labels_unannotated,
        _drops_the_labels,
        _no_source,
        _another_grid,
    ],
)
def test_the_tester_catches(read: Callable[[Path], list[Case]], tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    check_layout(Layout(decathlon.marks, decathlon.cases), tmp_path)
    with pytest.raises((AssertionError, DataError)):
        check_layout(Layout(decathlon.marks, read), tmp_path)
