"""Lesions stay in their organ and the fat around it, and change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imaging.errors import BadParameter, BadShape
from models.labels import structure
from training.lesions import GROWTH, KINDS, Kind, plant

SPACING = (2.0, 2.0, 2.0)
FAT_HU, ORGAN_HU, MUSCLE_HU, SPLEEN_HU = -100.0, 160.0, 60.0, 110.0
INSIDE_HU: dict[Kind, float] = {"colon_tumor": -950.0, "lung_tumor": -850.0}


def scene(kind: Kind, noise: float = 12.0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """An organ (a 60 mm ball) in fat, muscle behind it, spleen at its side, air in front."""
    z, y, x = np.meshgrid(*[np.arange(60, dtype=np.float32) - 30] * 3, indexing="ij")
    hu = np.full(z.shape, FAT_HU, np.float32)
    labels = np.zeros(z.shape, np.uint8)
    hu[y > 20], hu[y < -25] = MUSCLE_HU, -1000
    hu[x < -17], labels[x < -17] = SPLEEN_HU, structure("spleen").value
    organ = z**2 + y**2 + x**2 < 15**2
    labels[organ] = structure(structure(kind).parent or "").value
    hu[organ] = INSIDE_HU.get(kind, ORGAN_HU)
    return hu + np.random.default_rng(0).normal(0, noise, hu.shape).astype(np.float32), labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_touches_only_its_organ_and_fat(kind: Kind) -> None:
    hu, labels = scene(kind)
    parent = structure(structure(kind).parent or "").value
    for seed in range(12):
        new_hu, new_labels, lesion = plant(hu, labels, SPACING, kind, np.random.default_rng(seed))
        assert lesion is not None
        grown = new_labels == structure(kind).value
        assert (new_labels[~grown] == labels[~grown]).all()
        assert set(np.unique(labels[grown])) <= {0, parent}
        assert (labels[grown] == parent).any()
        assert (hu[grown & (labels == 0)] > -250).all()
        clean, _ = scene(kind, noise=0)
        assert (clean[grown] != MUSCLE_HU).mean() > 0.98
        changed = new_hu != hu
        assert (labels[changed] != structure("spleen").value).all()
        assert lesion.volume_ml == pytest.approx(grown.sum() * 0.008)
        assert np.allclose(lesion.centre, np.argwhere(grown).mean(0))


def test_the_inputs_are_not_changed() -> None:
    hu, labels = scene("kidney_tumor")
    before = hu.copy(), labels.copy()
    plant(hu, labels, SPACING, "kidney_tumor", np.random.default_rng(0))
    assert (hu == before[0]).all()
    assert (labels == before[1]).all()


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("pancreas_tumor", ORGAN_HU - 68, ORGAN_HU - 12),
        ("kidney_tumor", 10, ORGAN_HU + 25),
        ("kidney_cyst", -5, 75),
        ("liver_tumor", 0.45 * ORGAN_HU - 8, 0.8 * ORGAN_HU + 8),
        ("colon_tumor", 10, 98),
        ("lung_tumor", 10, 98),
    ],
)
def test_attenuation_is_the_kinds_own(kind: Kind, low: float, high: float) -> None:
    hu, labels = scene(kind)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        new_hu, new_labels, lesion = plant(hu, labels, SPACING, kind, rng, diameter_mm=24)
        assert lesion is not None
        inside = new_labels == structure(kind).value
        assert low < np.median(new_hu[inside]) < high


def test_the_images_noise_goes_on_inside_the_lesion() -> None:
    spread = []
    for noise in (5.0, 25.0):
        hu, labels = scene("kidney_cyst", noise)
        rng = np.random.default_rng(3)
        new_hu, marked, lesion = plant(hu, labels, SPACING, "kidney_cyst", rng, diameter_mm=30)
        assert lesion is not None
        middle = np.argwhere(marked == structure("kidney_cyst").value).mean(0).round().astype(int)
        core = new_hu[tuple(slice(m - 3, m + 4) for m in middle)]
        spread.append(1.4826 * np.median(np.abs(core - np.median(core))))
    assert spread[0] < 10
    assert 18 < spread[1] < 32


def test_kidney_tumors_grow_out_of_the_kidney_more_than_pancreas_tumors_out_of_the_pancreas() -> (
    None
):
    def outside(kind: Kind) -> float:
        hu, labels = scene(kind)
        parts = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            _, marked, lesion = plant(hu, labels, SPACING, kind, rng, diameter_mm=26)
            assert lesion is not None
            parts.append((labels[marked == structure(kind).value] == 0).mean())
        return float(np.mean(parts))

    assert outside("pancreas_tumor") < 0.15
    assert outside("kidney_tumor") > 1.5 * outside("pancreas_tumor")
    assert outside("lung_tumor") == 0


def test_a_colon_tumor_thickens_the_wall_and_leaves_the_lumen() -> None:
    hu, labels = scene("colon_tumor")
    z, y, x = np.meshgrid(*[np.arange(60.0) - 30] * 3, indexing="ij")
    depth = 30 - 2 * np.sqrt(z**2 + y**2 + x**2)  # mm under the ball's surface
    for seed in range(12):
        rng = np.random.default_rng(seed)
        new_hu, marked, lesion = plant(hu, labels, SPACING, "colon_tumor", rng, diameter_mm=39)
        assert lesion is not None
        grown = marked == structure("colon_tumor").value
        thin, thick = GROWTH["colon_tumor"].wall_mm or (0, 0)
        assert thin - 4 < depth[grown].max() < thick + 4 + 2
        assert depth[grown].min() < 2
        assert (marked[depth > thick + 6] == structure("colon").value).all()
        assert (new_hu[depth > thick + 8] == hu[depth > thick + 8]).all()


def test_stool_is_no_noise_of_the_colon_tumor() -> None:
    hu, labels = scene("colon_tumor")
    colon = labels == structure("colon").value
    hu[colon] = np.random.default_rng(1).normal(20, 200, int(colon.sum()))
    rng = np.random.default_rng(2)
    new_hu, marked, lesion = plant(hu, labels, SPACING, "colon_tumor", rng, diameter_mm=39)
    assert lesion is not None
    grown = marked == structure("colon_tumor").value
    assert 8 < 1.4826 * np.median(np.abs(new_hu[grown] - np.median(new_hu[grown]))) < 25


def test_a_patch_inside_the_colon_has_no_wall_to_grow_from() -> None:
    labels = np.full((40, 40, 40), structure("colon").value, np.uint8)
    hu = np.full(labels.shape, -950.0, np.float32)
    new_hu, marked, lesion = plant(hu, labels, SPACING, "colon_tumor", np.random.default_rng(0))
    assert lesion is None
    assert (marked == labels).all()
    assert (new_hu == hu).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), diameter=st.floats(10, 40), kind=st.sampled_from(KINDS))
def test_a_lesion_is_never_much_larger_than_asked(seed: int, diameter: float, kind: Kind) -> None:
    hu, labels = scene(kind)
    _, _, lesion = plant(hu, labels, SPACING, kind, np.random.default_rng(seed), diameter)
    assert lesion is not None
    assert lesion.diameter_mm < 1.4 * diameter


@pytest.mark.parametrize("kind", KINDS)
def test_random_diameters_keep_to_their_range(kind: Kind) -> None:
    hu, labels = scene(kind)
    _, low, high = GROWTH[kind].diameter_mm
    for seed in range(20):
        _, _, lesion = plant(hu, labels, SPACING, kind, np.random.default_rng(seed))
        # What other organs and air take away may make it smaller; unevenness a little larger.
        assert lesion is not None
        assert 0.4 * low < lesion.diameter_mm < 1.3 * high


@pytest.mark.parametrize("voxels", [0, 30])
def test_without_room_nothing_grows(voxels: int) -> None:
    hu, labels = scene("kidney_tumor")
    labels[labels == structure("kidney").value] = 0
    labels[30, 30, :voxels] = structure("kidney").value
    new_hu, new_labels, lesion = plant(
        hu, labels, SPACING, "kidney_tumor", np.random.default_rng(0)
    )
    assert lesion is None
    assert (new_hu == hu).all()
    assert (new_labels == labels).all()


def test_integers_stay_integers() -> None:
    hu, labels = scene("kidney_cyst")
    new_hu, _, _ = plant(
        hu.astype(np.int16), labels, SPACING, "kidney_cyst", np.random.default_rng(0)
    )
    assert new_hu.dtype == np.int16


def test_refusals() -> None:
    hu, labels = scene("kidney_cyst")
    rng = np.random.default_rng(0)
    with pytest.raises(BadParameter, match="wart"):
        plant(hu, labels, SPACING, "wart", rng)  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="positive"):
        plant(hu, labels, SPACING, "kidney_cyst", rng, diameter_mm=-1)
    with pytest.raises(BadShape, match="Z, Y, X"):
        plant(hu[1:], labels, SPACING, "kidney_cyst", rng)
