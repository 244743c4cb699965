"""The phantom is reproducible, anatomically in order, and looks as its style says."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.errors import BadParameter
from models.labels import STRUCTURES, structure
from training.lesions import KINDS
from training.phantoms import (
    ANNOTATED,
    PAINTED,
    STYLES,
    Phantom,
    SiteStyle,
    make_phantom,
    relabelled,
    write_set,
)
from training.phantoms import canvas as phantom_canvas

TINY = (32, 64, 64)
SEEDS = (1, 2, 3, 4, 5, 6)
# Adults, mL, both kidneys together; wider than normal ranges because a scan may cut organs off
# and the phantom varies more than people do.
PLAUSIBLE_ML = {
    "pancreas": (20, 150),
    "kidney": (120, 480),
    "liver": (500, 2300),
    "spleen": (20, 450),
    "stomach": (40, 900),
    "duodenum": (15, 160),
    "hepatic_vessel": (4, 60),
    "colon": (100, 1200),
    "lung": (100, 3000),
}


@cache
def portal(seed: int) -> Phantom:
    grid = (4.0, 4.0, 4.0)
    return make_phantom(seed, "a-thin-portal", tumors=False, spacing_mm=grid, structures=PAINTED)


@cache
def ill(seed: int) -> Phantom:
    grid = (4.0, 4.0, 4.0)
    return make_phantom(seed, "b-thick-portal", tumors=True, spacing_mm=grid, structures=PAINTED)


def mask(phantom: Phantom, name: str) -> NDArray[np.bool_]:
    return np.asarray(phantom.labels.array == structure(name).value)


def centroid(phantom: Phantom, where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """LPS (x, y, z) mm."""
    return phantom.labels.geometry.to_world(np.argwhere(where).mean(0))


def test_one_seed_one_phantom() -> None:
    first, again, other = (make_phantom(s, shape=TINY) for s in (7, 7, 8))
    assert (first.volume.array == again.volume.array).all()
    assert (first.labels.array == again.labels.array).all()
    assert first.lesions == again.lesions
    assert (first.volume.array != other.volume.array).any()


def test_types_grids_and_values() -> None:
    phantom = make_phantom(3, shape=TINY)
    assert phantom.volume.array.dtype == np.int16
    assert phantom.labels.array.dtype == np.uint8
    assert phantom.volume.array.shape == TINY
    assert phantom.volume.geometry.close_to(phantom.labels.geometry)
    assert set(np.unique(phantom.labels.array)) <= {0, *(structure(n).value for n in ANNOTATED)}
    assert phantom.annotated == ANNOTATED
    assert set(PAINTED) == {s.name for s in STRUCTURES}


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_have_plausible_volumes(seed: int) -> None:
    phantom = portal(seed)
    for name, (low, high) in PLAUSIBLE_ML.items():
        ml = mask(phantom, name).sum() * phantom.labels.geometry.voxel_ml
        assert low < ml < high, name


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_are_where_they_belong(seed: int) -> None:
    phantom = portal(seed)
    liver, spleen, pancreas = (
        centroid(phantom, mask(phantom, n)) for n in ("liver", "spleen", "pancreas")
    )
    kidneys = mask(phantom, "kidney")
    x = phantom.labels.geometry.to_world(np.argwhere(kidneys))[:, 0]
    assert liver[0] < -20 < 40 < spleen[0]
    assert (x < -25).sum() > 0.25 * len(x)
    assert (x > 25).sum() > 0.25 * len(x)
    assert (np.abs(x) > 10).all()
    assert abs(pancreas[0]) < 40
    assert pancreas[1] < centroid(phantom, kidneys)[1] - 20
    assert liver[2] > centroid(phantom, kidneys)[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_colon_frames_the_bowel(seed: int) -> None:
    phantom = portal(seed)
    colon = phantom.labels.geometry.to_world(np.argwhere(mask(phantom, "colon")))
    low = colon[colon[:, 2] < -100]  # a transverse colon may hang lower than the flexures
    assert (low[:, 0] < -50).any()
    assert (low[:, 0] > 50).any()
    assert (np.abs(low[:, 0]) > 25).all()
    across = colon[np.abs(colon[:, 0]) < 20]
    assert len(across) > 0
    kidneys = centroid(phantom, mask(phantom, "kidney"))
    assert across[:, 1].max() < kidneys[1] - 20


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lungs_lie_above_the_liver_on_both_sides(seed: int) -> None:
    phantom = portal(seed)
    lung = mask(phantom, "lung")
    x, _, z = phantom.labels.geometry.to_world(np.argwhere(lung)).T
    assert (x < -25).mean() > 0.25
    assert (x > 25).mean() > 0.25
    assert z.mean() > centroid(phantom, mask(phantom, "liver"))[2] + 40
    assert -950 < np.median(phantom.volume.array[lung]) < -700


@pytest.mark.parametrize("seed", SEEDS)
def test_hepatic_vessels_are_bright_and_lie_in_the_liver(seed: int) -> None:
    phantom = portal(seed)
    vessel, liver = mask(phantom, "hepatic_vessel"), mask(phantom, "liver")
    hu = phantom.volume.array
    assert np.median(hu[vessel]) > np.median(hu[liver]) + 10
    z, y, x = np.argwhere(vessel).T
    box = phantom.labels.array[z.min() : z.max() + 1, y.min() : y.max() + 1, x.min() : x.max() + 1]
    assert (box == structure("liver").value).mean() > 0.4


def test_the_anatomy_is_the_same_whatever_the_labels_name() -> None:
    plain = make_phantom(1, "a-thin-portal", tumors=False, spacing_mm=(4.0, 4.0, 4.0))
    assert (plain.volume.array == portal(1).volume.array).all()
    # Labels are interpolated after structures without a label have gone to their organ.
    merged = relabelled(portal(1).labels.array, ANNOTATED)
    assert (merged != plain.labels.array).mean() < 0.001
    assert (mask(plain, "liver") & mask(portal(1), "hepatic_vessel")).sum() > 0.95 * mask(
        portal(1), "hepatic_vessel"
    ).sum()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_later_lesions_leave_the_first_ones_and_the_noise_as_they_were(seed: int) -> None:
    more = ill(seed)
    plain = make_phantom(seed, "b-thick-portal", tumors=True, spacing_mm=(4.0, 4.0, 4.0))
    assert more.lesions[: len(plain.lesions)] == plain.lesions
    added = [le for le in more.lesions if le.kind not in ANNOTATED]
    assert len(more.lesions) == len(plain.lesions) + len(added)
    changed = np.argwhere(more.volume.array != plain.volume.array)
    away = [np.linalg.norm((changed - le.centre) * 4.0, axis=1) / le.diameter_mm for le in added]
    assert added
    assert (np.min(away, axis=0) < 1.5).all()


def test_a_data_set_sees_what_it_annotates() -> None:
    every = np.arange(18, dtype=np.uint8).reshape(1, 3, 6)
    vessels = relabelled(every, ("hepatic_vessel", "liver_tumor"))
    assert vessels.ravel().tolist() == [0] * 12 + [12, 13] + [0] * 4
    assert (
        relabelled(every, ("liver",)).ravel().tolist() == [0] * 6 + [6] + [0] * 5 + [6, 6] + [0] * 4
    )
    organs = [0, 1, 1, 3, 3, 3, 6, 7, 8, 9, 10, 11, 6, 6, 0, 0, 0, 0]
    plain = (n for n in ANNOTATED if structure(n).parent is None)
    assert relabelled(every, plain).ravel().tolist() == organs
    assert (relabelled(every, PAINTED) == every).all()
    assert (
        relabelled(every, ("colon", "lung_tumor")) == every * np.isin(every, (14, 17))
    ).sum() == 17
    assert relabelled(every, ()).dtype == np.uint8


@pytest.mark.parametrize(
    "structures", [("hepatic_vessel", "liver_tumor"), ("lung_tumor",), ("kidney", "kidney_cyst")]
)
def test_only_named_lesions_grow(structures: tuple[str, ...]) -> None:
    phantom = make_phantom(
        4, "b-thick-portal", tumors=True, spacing_mm=(4.0, 4.0, 4.0), structures=structures
    )
    assert phantom.annotated == structures
    assert [le.kind for le in phantom.lesions] == [n for n in structures if n in KINDS]
    found = set(np.unique(phantom.labels.array))
    assert found == {0, *(structure(n).value for n in structures)}


def test_the_pancreas_crosses_in_front_of_the_aorta() -> None:
    phantom = portal(1)
    points = phantom.labels.geometry.to_world(np.argwhere(mask(phantom, "pancreas")))
    assert points[:, 0].min() < -20
    assert points[:, 0].max() > 40
    crossing = points[np.abs(points[:, 0] - 6) < 8]
    assert len(crossing) > 0
    assert crossing[:, 1].mean() < -35  # the aorta's centre is at y = -30


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("liver", 60, 145), ("spleen", 85, 160), ("kidney", 115, 250), ("pancreas", 55, 135)],
)
def test_attenuation_of_the_portal_phase(name: str, low: float, high: float) -> None:
    found = [np.median(portal(s).volume.array[mask(portal(s), name)]) for s in SEEDS]
    assert low < float(np.median(found)) < high


def test_phase_changes_the_kidney_but_not_the_anatomy() -> None:
    plain, arterial = (
        make_phantom(5, SiteStyle("s", 4.0, phase=p, noise_hu=5), tumors=False, shape=(32, 72, 72))
        for p in ("none", "arterial")
    )
    overlap = mask(plain, "kidney") & mask(arterial, "kidney")
    assert overlap.sum() > 0.95 * mask(plain, "kidney").sum()
    hu = [np.median(p.volume.array[overlap]) for p in (plain, arterial)]
    assert 15 < hu[0] < 50
    assert hu[1] > hu[0] + 40


def test_styles_set_grid_and_noise() -> None:
    quiet, loud = (
        make_phantom(2, SiteStyle("s", 5.0, noise_hu=n), tumors=False, shape=(24, 96, 96))
        for n in (3.0, 30.0)
    )
    liver = mask(quiet, "liver")
    spread = [
        1.4826 * np.median(np.abs(p.volume.array[liver] - np.median(p.volume.array[liver])))
        for p in (quiet, loud)
    ]
    assert 22 < spread[1] < 40
    assert spread[0] < 15
    for style in STYLES.values():
        grid = make_phantom(1, style, shape=(16, 48, 48)).volume.geometry
        assert grid.spacing[0] == pytest.approx(style.coverage_mm / 16)
        assert grid.spacing[1] == pytest.approx(style.field_of_view_mm / 48)
    assert len({s.phase for s in STYLES.values()}) == 4


def test_a_style_gives_its_own_grid_when_nothing_else_is_asked() -> None:
    style = SiteStyle("s", slice_mm=8.0, matrix=64, field_of_view_mm=384, coverage_mm=240)
    geometry = make_phantom(1, style).volume.geometry
    assert geometry.shape == (30, 64, 64)
    assert geometry.spacing == pytest.approx((8.0, 6.0, 6.0))
    asked = make_phantom(1, style, spacing_mm=(10.0, 8.0, 8.0)).volume.geometry
    assert asked.shape == (24, 48, 48)


def test_lesions_are_labelled_beside_their_organ() -> None:
    found = [(p, le) for p in map(ill, (1, 2, 3)) for le in p.lesions]
    assert {le.kind for _, le in found} > {"liver_tumor", "lung_tumor"}
    for phantom, lesion in found:
        inside = mask(phantom, lesion.kind)
        assert inside.any()
        middle = np.argwhere(inside).mean(0)
        assert np.abs(middle - lesion.centre).max() < 2.5
        z, y, x = np.clip(np.round(middle).astype(int), 4, None)
        around = phantom.labels.array[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5]
        radius = 0.5 * lesion.diameter_mm / 4 + 3
        organ = np.argwhere(mask(phantom, structure(lesion.kind).parent or ""))
        assert np.linalg.norm(organ - middle, axis=1).min() < radius
        assert (around == structure(lesion.kind).value).any()
    assert make_phantom(1, shape=TINY, tumors=False).lesions == ()


def test_a_tiny_phantom_is_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts voxels, not seconds: a tiny phantom paints a coarse canvas."""
    painted = []
    original = phantom_canvas.Canvas.paint

    def counting(self, box, distance, hu, label=0):  # type: ignore[no-untyped-def]
        painted.append(distance.size)
        original(self, box, distance, hu, label)

    monkeypatch.setattr(phantom_canvas.Canvas, "paint", counting)
    make_phantom(1, "a-thin-portal", shape=TINY)
    assert sum(painted) < 8_000_000


def test_a_written_set_reads_back(tmp_path: Path) -> None:
    write_set(tmp_path, cases=2, seed=3, style="b-thick-portal", shape=(16, 32, 32))
    meta = json.loads((tmp_path / "dataset.json").read_text())
    assert meta["numTraining"] == len(meta["training"]) == 2
    assert meta["labels"]["3"] == "kidney"
    assert tuple(meta["islet_annotated"]) == ANNOTATED
    seen = []
    for pair in meta["training"]:
        image, label = (nib.load(tmp_path / pair[k]) for k in ("image", "label"))
        assert image.shape == label.shape == (32, 32, 16)
        assert np.allclose(image.affine, label.affine)
        assert np.abs(np.asarray(image.dataobj)).max() <= 3071
        assert {str(v) for v in np.unique(np.asarray(label.dataobj))} <= set(meta["labels"])
        seen.append(np.asarray(image.dataobj))
    assert (seen[0] != seen[1]).any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: make_phantom(1, "no-such-style"), "a-thin-portal"),
        (lambda: make_phantom(1, shape=(4, 64, 64)), "8 voxels"),
        (lambda: make_phantom(1, spacing_mm=(0.0, 2.0, 2.0)), "positive"),
        (lambda: make_phantom(1, structures=("liver", "brain")), "brain"),
        (lambda: relabelled(np.zeros((1, 1, 1), np.uint8), ("brain",)), "brain"),
        (lambda: SiteStyle("s", 2.5, phase="venous"), "venous"),
        (lambda: SiteStyle("s", -1.0), "-1.0"),
        (lambda: write_set(Path("unused"), cases=0, seed=1), "at least one"),
    ],
)
def test_refusals_name_the_value(call, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadParameter, match=said):
        call()


def test_needs_no_torch_or_monai() -> None:
    code = (
        "import sys, training.phantoms;print([m for m in ('torch', 'monai') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
