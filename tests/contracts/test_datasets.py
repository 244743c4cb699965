"""One tester for every data set layout: canonical labels, geometry, disjoint cases, annotated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import DataError
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from tests.training.tiny import arrays, grid, write_decathlon
from training.cases import Case, load
from training.datasets import DATASETS, Layout, decathlon, open_dataset


def check_layout(layout: Layout, folder: Path) -> list[Case]:
    """Everything that training takes for granted of a layout's cases."""
    assert (folder / layout.marker).is_file()
    cases = layout.read(folder)
    assert cases
    for what in ("name", "image", "label"):
        found = [getattr(case, what) for case in cases]
        assert len(set(found)) == len(found), f"two cases share a {what}"
    for case in cases:
        assert case.annotated
        assert set(case.annotated) <= set(BY_NAME)
        assert set(case.values.values()) <= set(case.annotated), "labelled, but not annotated"
        assert case.source.get("name")
        assert case.source.get("licence")
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


def write_ct_index(folder: Path) -> Path:
    """The Decathlon set again, as single cases with an index."""
    write_decathlon(folder / "made")
    entries = []
    for seed in (0, 1):
        home = folder / f"blocks_{seed}"
        home.mkdir()
        (folder / "made" / "imagesTr" / f"{home.name}.nii.gz").rename(home / "ct.nii.gz")
        (folder / "made" / "labelsTr" / f"{home.name}.nii.gz").rename(home / "label.nii.gz")
        entries.append({"case": home.name, "annotated": ["pancreas", "kidney"], "licence": "CC0"})
    index = {"labels": {"1": "pancreas", "3": "kidney"}, "cases": entries}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "decathlon": write_decathlon,
    "ct_index": write_ct_index,
}


@pytest.mark.parametrize("name", DATASETS)
def test_contract(name: str, tmp_path: Path) -> None:
    cases = check_layout(DATASETS[name], WRITERS[name](tmp_path))
    assert [c.name for c in cases] == ["blocks_0", "blocks_1"]
    assert open_dataset(tmp_path) == cases


def _same_name(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, name="one") for case in decathlon.read(folder)]


def _same_files(folder: Path) -> list[Case]:
    first = decathlon.read(folder)[0]
    return [first, dataclasses.replace(first, name="copy")]


def _nothing_annotated(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, annotated=()) for case in decathlon.read(folder)]


def _labels_unannotated(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, annotated=("pancreas",)) for case in decathlon.read(folder)]


def _drops_the_labels(folder: Path) -> list[Case]:
    return [dataclasses.replace(case, values={}) for case in decathlon.read(folder)]


def _another_grid(folder: Path) -> list[Case]:
    cases = decathlon.read(folder)
    moved = folder / "moved.nii.gz"

    labels = arrays()[1]
    where = dataclasses.replace(grid(labels.shape), origin=(0.0, 0.0, 0.0))
    write_nifti(Volume(labels, where), moved)
    return [dataclasses.replace(cases[0], label=moved), *cases[1:]]


@pytest.mark.parametrize(
    "read",
    [
        _same_name,
        _same_files,
        _nothing_annotated,
        _labels_unannotated,
        _drops_the_labels,
        _another_grid,
    ],
)
def test_the_tester_catches(read: Callable[[Path], list[Case]], tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    with pytest.raises((AssertionError, DataError)):
        check_layout(Layout("dataset.json", read), tmp_path)
