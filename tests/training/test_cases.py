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
    assert case.label is not None
    original = nib.load(case.label)
    path = case.label.with_name("other.nii.gz")
    nib.save(nib.Nifti1Image(array, original.affine if affine is None else affine), path)
    return dataclasses.replace(case, label=path)


def test_a_value_may_stand_for_unknown(case: Case) -> None:
    values = {**case.values, 200: "unknown"}
    found = load(dataclasses.replace(case, values=values)).labels.array
    assert found[0, 0, 0] == 255
    assert np.count_nonzero(found == 255) == 1


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


def _mask(case: Case, name: str, array: np.ndarray, flipped: bool = False) -> Path:
    """Write a mask (Z, Y, X) beside a case, its first two axes in another order where asked."""
    geometry, path = grid(array.shape), case.image.with_name(f"{name}.nii.gz")
    if flipped:
        axes, flips = (1, 0, 2), (True, False, True)
        geometry = geometry.transposed(axes, flips)
        array = array.transpose(axes)[::-1, :, ::-1]
    write_nifti(Volume(array, geometry), path)
    return path


def _boxes(case: Case) -> dict[str, np.ndarray]:
    """Boxes that overlap, each inside the one before: kidney, cyst, tumor."""
    boxes = {name: np.zeros((24, 28, 32), np.uint8) for name in ("kidney", "cyst", "tumor")}
    boxes["kidney"][2:20, 2:20, 2:20] = 1
    boxes["cyst"][4:12, 4:12, 4:12] = 1
    boxes["tumor"][8:10, 8:10, 4:18] = 1
    return boxes


def test_masks_are_laid_over_each_other_lesions_last(case: Case) -> None:
    boxes = _boxes(case)
    left, right = boxes["kidney"].copy(), boxes["kidney"].copy()
    left[:, :, :9] = right[:, :, 9:] = 0
    # In the order in which a careless loop would lose the cyst and the tumor.
    masks = {
        "kidney_tumor": (_mask(case, "tumor", boxes["tumor"]),),
        "kidney_cyst": (_mask(case, "cyst", boxes["cyst"]),),
        "kidney": (_mask(case, "left", left), _mask(case, "right", right)),
    }
    united = dataclasses.replace(case, label=None, masks=masks, annotated=tuple(masks))
    read = load(united)
    expected = np.zeros((24, 28, 32), np.uint8)
    expected[2:20, 2:20, 2:20] = 3
    expected[4:12, 4:12, 4:12] = 5
    expected[8:10, 8:10, 4:18] = 4
    assert read.labels.array.dtype == np.uint8
    assert np.array_equal(read.labels.array, expected)
    assert read.labels.geometry is read.image.geometry


def test_labels_in_another_order_of_axes_are_put_in_the_cts(case: Case) -> None:
    box = _boxes(case)["tumor"] * np.uint8(9)
    turned = dataclasses.replace(case, label=_mask(case, "turned", box, flipped=True))
    stored = nib.load(turned.label)
    assert stored.shape == (32, 24, 28)
    found = load(turned)
    assert np.array_equal(found.labels.array, box // 9 * 3)
    assert found.labels.geometry is found.image.geometry
    masked = dataclasses.replace(
        case, label=None, masks={"liver": (_mask(case, "m", box // 9, flipped=True),)}
    )
    assert np.array_equal(load(masked).labels.array, box // 9 * 6)


@pytest.mark.parametrize("value", [0.5, -1, 2, 255])
def test_a_mask_holds_zero_and_one(case: Case, value: float) -> None:
    array = np.zeros((24, 28, 32), np.float32)
    array[3, 4, 5] = value
    united = dataclasses.replace(case, label=None, masks={"liver": (_mask(case, "m", array),)})
    with pytest.raises(
        DataError, match=r"Case one: the mask m\.nii\.gz holds values from"
    ) as caught:
        load(united)
    assert caught.value.details == {"case": "one", "file": "m.nii.gz"}


def test_a_mask_on_another_grid_is_named(case: Case) -> None:
    path = _mask(case, "m", np.zeros((23, 28, 32), np.uint8))
    united = dataclasses.replace(case, label=None, masks={"liver": (path,)})
    with pytest.raises(DataError, match=r"its labels m\.nii\.gz \(23, 28, 32\) at"):
        load(united)


def test_a_case_has_either_a_label_map_or_masks(case: Case) -> None:
    masks = {"liver": (case.image,)}
    for label, given in ((case.label, masks), (None, {})):
        with pytest.raises(DataError, match="Case one: needs either a label map or masks"):
            dataclasses.replace(case, label=label, masks=given)
    with pytest.raises(DataError, match="heart"):
        dataclasses.replace(case, label=None, masks={"heart": (case.image,)})
    with pytest.raises(DataError, match="train, validation, test, not 'val'"):
        dataclasses.replace(case, split="val")
    assert case.split == "train"
