"""Organs that take other forms: where they end up, what follows, what stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import islet
from imaging.errors import BadParameter, DataError
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from tests.training.planting.scene import (
    KIDNEY_HU,
    PANCREAS_HU,
    ball,
    grid,
    kidneys,
    patient,
    write_shapes,
)
from training.cases import Loaded, load
from training.datasets import open_dataset
from training.datasets.ct_index import write_index
from training.reshaping import Forms, reshape_case, towards
from training.reshaping.forms import Form
from training.reshaping.sets import reshape_set
from training.reshaping.warp import unfolded

PANCREAS, KIDNEY = BY_NAME["pancreas"].value, BY_NAME["kidney"].value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the shapes are."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def forms(folder: Path) -> Forms:
    """Its part for training."""
    return Forms.open(folder)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_an_organ_takes_a_form_and_its_ct_comes_along() -> None:
    shape = (40, 40, 40)
    where = grid(shape, (4.0, 4.0, 4.0))
    own, wanted = ball(shape, (20, 20, 20), (6, 6, 6)), ball(shape, (20, 22, 20), (4, 6, 10))
    warp = towards(own, wanted, where)
    labels = warp.labels(Volume(own.astype(np.uint8), where)).array > 0
    assert overlap(own, wanted) < 0.75 < 0.85 < overlap(labels, wanted)
    hu = warp.image(Volume(np.where(own, 100, -100).astype(np.int16), where)).array
    assert hu.dtype == np.int16
    assert overlap(hu > 0, labels) > 0.95
    # Far from it nothing moves.
    assert (hu[:2] == -100).all()


def test_a_form_that_is_its_own_changes_nothing() -> None:
    shape = (30, 30, 30)
    own = ball(shape, (15, 15, 15), (6, 5, 7))
    found = towards(own, own, grid(shape, (4.0, 4.0, 4.0)))
    labels = Volume(own.astype(np.uint8), grid(shape, (4.0, 4.0, 4.0)))
    assert (found.labels(labels).array == labels.array).all()


def test_what_would_fold_is_weaker() -> None:
    """Places of x that run backwards are made to run forwards; others are left as they are."""
    moved = np.zeros((6, 6, 20, 3), np.float32)
    bump = np.sin(np.arange(20) / 3).astype(np.float32)
    moved[..., 0] = 2 * bump
    assert (unfolded(moved) == moved).all()
    folding = 5 * moved
    weaker = unfolded(folding)
    places = np.arange(20) + weaker[3, 3, :, 0]
    assert np.diff(np.arange(20) + folding[3, 3, :, 0]).min() < 0 < np.diff(places).min()
    assert np.abs(weaker).max() > np.abs(moved).max()


def test_neighbours_stay_neighbours() -> None:
    """A bar across becomes one along; no place is passed by another."""
    shape = (40, 40, 40)
    where = grid(shape, (4.0, 4.0, 4.0))
    own, wanted = ball(shape, (20, 20, 20), (3, 3, 14)), ball(shape, (20, 20, 20), (14, 3, 3))
    ramp = np.broadcast_to(np.arange(40.0, dtype=np.float32)[None, None], shape)
    along = towards(own, wanted, where).image(Volume(ramp.copy(), where)).array
    assert np.diff(along[:, :, 4:36], axis=2).min() > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_a_case_keeps_its_tissues(forms: Forms, seed: int) -> None:
    case = patient()
    made = reshape_case(case, forms, rng(seed))
    assert [name.rpartition("/")[2] for name in made.forms] == [
        "pancreas",
        "left kidney",
        "right kidney",
    ]
    for value, hu in ((PANCREAS, PANCREAS_HU), (KIDNEY, KIDNEY_HU)):
        before, after = case.labels.array == value, made.labels.array == value
        assert 0.3 < overlap(before, after) < 0.99
        assert abs(float(made.image.array[after].mean()) - hu) < 12
    # A patient is changed within, not at the sides.
    assert (made.labels.array[0] == case.labels.array[0]).all()
    moved = made.image.array[0].astype(float) - case.image.array[0]
    assert np.abs(moved).mean() < 2


def test_it_nears_the_forms_size(forms: Forms) -> None:
    """The scene's pancreas has 96 ml, the library's 57."""
    case = patient()
    found = reshape_case(case, forms, rng()).labels
    before, after = (
        float((v.array == PANCREAS).sum()) * v.geometry.voxel_ml for v in (case.labels, found)
    )
    assert before > 95 > 90 > after > 50


def test_a_form_is_taken_at_a_size_like_the_organs_own() -> None:
    ball = np.argwhere(np.ones((10, 10, 10), bool)) * 2.0
    form = Form("a/b/pancreas", ball - ball.mean(0), (2.0, 2.0, 2.0))
    assert form.volume_ml == pytest.approx(8.0)
    assert form.within(4.0, 16.0).points == pytest.approx(form.points)
    small = form.within(0.5, 1.0)
    assert small.volume_ml == pytest.approx(1.0)
    assert np.ptp(small.points) == pytest.approx(np.ptp(form.points) / 2)
    assert form.within(27.0, 30.0).volume_ml == pytest.approx(27.0)


def test_axes_in_another_order_give_the_same(forms: Forms) -> None:
    case = patient()
    # The other way up: the same voxels stored from head to feet.
    geometry = case.image.geometry
    last = geometry.to_world(np.array([[geometry.shape[0] - 1.0, 0.0, 0.0]]))[0].tolist()
    turned = replace(
        geometry,
        origin=(last[0], last[1], last[2]),
        direction=geometry.direction * np.array([-1.0, 1.0, 1.0]),
    )
    other = Loaded(
        case.name,
        Volume(case.image.array[::-1].copy(), turned),
        Volume(case.labels.array[::-1].copy(), turned),
        case.annotated,
    )
    one, two = (reshape_case(c, forms, rng()) for c in (case, other))
    assert one.forms == two.forms
    assert (one.labels.array == two.labels.array[::-1]).all()
    assert (one.image.array == two.image.array[::-1]).all()


def test_what_is_not_annotated_stays(forms: Forms) -> None:
    case = replace(patient(), annotated=("spleen",))
    made = reshape_case(case, forms, rng())
    assert made.forms == ()
    assert (made.image.array == case.image.array).all()
    assert (made.labels.array == case.labels.array).all()


def test_a_single_kidney_has_its_own_sides_form(forms: Forms) -> None:
    case = patient()
    array = case.labels.array.copy()
    array[:, :, :65][array[:, :, :65] == KIDNEY] = 0
    case = replace(case, labels=case.labels.with_array(array), annotated=("kidney",))
    made = reshape_case(case, forms, rng())
    assert [name.rpartition("/")[2] for name in made.forms] == ["left kidney"]


def test_left_and_right_are_told_apart(forms: Forms) -> None:
    """The scene's left kidney has a tumor high up, the right one a cyst low down."""
    left, right = (forms.draw(organ, rng()) for organ in ("left kidney", "right kidney"))
    assert left is not None
    assert right is not None
    assert left.volume_ml > right.volume_ml > 70
    assert np.abs(left.points.mean(0)).max() < 1e-9


def test_a_patient_is_in_one_part(folder: Path) -> None:
    train, held = Forms.open(folder), Forms.open(folder, "held-out")
    for name, files in train.files.items():
        assert files
        assert not set(files) & set(held.files[name])


def test_pieces_are_no_forms(tmp_path: Path) -> None:
    cut = kidneys()[10:]
    write_nifti(Volume(cut, grid(cut.shape)), tmp_path / "kits23" / "case_00000.nii.gz")
    forms = Forms.open(tmp_path)
    assert forms.draw("left kidney", rng()) is None
    assert forms.draw("pancreas", rng()) is None
    assert reshape_case(patient(), forms, rng()).forms == ()


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no train shapes"):
        Forms.open(tmp_path)
    picture = np.zeros((9, 9, 9), np.float32) + 0.5
    write_nifti(Volume(picture, grid(picture.shape)), tmp_path / "panorama" / "1_0.nii.gz")
    with pytest.raises(DataError, match="no label map"):
        Forms.open(tmp_path).draw("pancreas", rng())


def test_the_command_writes_a_set_that_is_read(folder: Path, tmp_path: Path) -> None:
    case, home, out = patient(), tmp_path / "data", tmp_path / "out"
    write_nifti(case.image, home / "one" / "ct.nii.gz")
    write_nifti(case.labels, home / "one" / "label.nii.gz")
    entry = {"case": "one", "annotated": list(case.annotated), "provenance": "a hospital"}
    write_index(home, [{**entry, "licence": "CC BY 3.0", "label": "pseudo"}])
    words = ["data", "reshape", str(home), "-o", str(out), "--shapes", str(folder)]
    assert islet.main([*words, "--copies", "2", "--seed", "3"]) == 0
    first, second = open_dataset(out)
    assert (first.name, second.name, first.group) == ("one-form000", "one-form001", "one")
    assert first.annotated == case.annotated
    assert (load(first).image.array != load(second).image.array).any()
    told = json.loads((out / "index.json").read_text())["cases"][0]
    assert told["label"] == "pseudo; warped with the CT"
    assert told["provenance"] == "a hospital; organ shapes: KiTS23, PANORAMA"
    assert told["licence"] == "CC BY 3.0; KiTS23 CC BY-NC-SA; PANORAMA CC BY-NC 4.0"
    assert len(told["forms"]) == 3
    with pytest.raises(BadParameter, match="not empty"):
        reshape_set([first], home, Forms.open(folder), 1, 0)
    bare = replace(first, annotated=("spleen",))
    with pytest.raises(BadParameter, match="annotates pancreas or kidney"):
        reshape_set([bare], tmp_path / "new", Forms.open(folder), 1, 0)
