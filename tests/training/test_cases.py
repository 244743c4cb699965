"""Cases from disk: canonical values on the CT's grid, or an error that names the case."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging.errors import DataError
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from tests.training.tiny import arrays, grid
from training.cases import Case, load


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Blocks whose labels are stored with values of another data set: 7 pancreas, 9 kidney."""
    hu, labels = arrays()
    stored = np.select([labels == 1, labels == 3], [7, 9], 0).astype(np.uint8)
    stored[0, 0, 0] = 200
    write_nifti(Volume(hu, grid(hu.shape)), tmp_path / "ct.nii.gz")
    write_nifti(Volume(stored, grid(hu.shape)), tmp_path / "label.nii.gz")
    return Case(
        "one",
        tmp_path / "ct.nii.gz",
        tmp_path / "label.nii.gz",
        {7: "pancreas", 9: "kidney"},
        ("pancreas", "kidney"),
    )


def test_stored_values_become_islets(case: Case) -> None:
    hu, labels = arrays()
    read = load(case)
    assert read.name == "one"
    assert read.annotated == ("pancreas", "kidney")
    assert read.labels.array.dtype == np.uint8
    # The value 200 has no name, so it is unlabelled.
    assert np.array_equal(read.labels.array, labels)
    assert np.array_equal(read.image.array, hu)
    assert read.labels.geometry is read.image.geometry


def _stored(case: Case, array: np.ndarray, affine: np.ndarray | None = None) -> Case:
    original = nib.load(case.label)
    path = case.label.with_name("other.nii.gz")
    nib.save(nib.Nifti1Image(array, original.affine if affine is None else affine), path)
    return dataclasses.replace(case, label=path)


@pytest.mark.parametrize("value", [-1.0, 0.5, 256.0, 1000.0])
def test_values_that_are_no_labels_are_refused(case: Case, value: float) -> None:
    array = np.zeros((32, 28, 24), np.float32)
    array[3, 4, 5] = value
    with pytest.raises(DataError, match=r"Case one: labels must be whole numbers") as caught:
        load(_stored(case, array))
    assert caught.value.details["case"] == "one"


def test_whole_numbers_stored_as_floats_are_labels(case: Case) -> None:
    array = np.zeros((32, 28, 24), np.float32)
    array[3, 4, 5] = 9
    found = load(_stored(case, array)).labels.array
    assert found[5, 4, 3] == 3
    assert np.count_nonzero(found) == 1


def test_another_grid_is_refused(case: Case) -> None:
    affine = nib.load(case.label).affine.copy()
    array = np.zeros((32, 28, 24), np.uint8)
    affine[:3, 3] += 0.1
    load(_stored(case, array, affine))
    affine[:3, 3] += 2
    with pytest.raises(DataError, match=r"Case one: the CT is .* store both on one grid"):
        load(_stored(case, array, affine))
    with pytest.raises(DataError, match="store both on one grid"):
        load(_stored(case, array[:-1]))


def test_an_unreadable_file_names_the_case(case: Case) -> None:
    case.image.write_bytes(b"no image at all, whatever its name says")
    with pytest.raises(DataError, match="Case one: "):
        load(case)


def test_names_and_values_are_checked_when_a_case_is_made(case: Case) -> None:
    with pytest.raises(DataError, match="heart"):
        dataclasses.replace(case, annotated=("heart",))
    with pytest.raises(DataError, match="heart"):
        dataclasses.replace(case, values={1: "heart"})
    for value in (0, -3, 256):
        with pytest.raises(DataError, match=f"{value}"):
            dataclasses.replace(case, values={value: "liver"})
