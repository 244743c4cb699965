"""Real lesions in a whole case: exact labels, in their organ, told in the patient's millimetres."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imaging.errors import BadParameter
from imaging.volume import Volume, to_canonical
from models.labels import BY_NAME
from tests.training.planting.scene import FAT_HU, KIDNEY_HU, PANCREAS_HU, patient
from training.cases import Loaded
from training.phantoms import make_phantom
from training.planting import REAL, Kind, Planted, Shapes, plant_case, plant_real

ORGANS = {kind: BY_NAME[BY_NAME[kind].parent or ""].value for kind in REAL}


def planted(
    case: Loaded, shapes: Shapes, seed: int, kind: Kind, size: tuple[float, float] | None = None
) -> Planted:
    return plant_case(case, shapes, np.random.default_rng(seed), (kind,), (1, 1), size)


@pytest.mark.parametrize("kind", REAL)
def test_a_lesion_is_what_its_label_says(shapes: Shapes, kind: Kind) -> None:
    case = patient()
    before = case.image.array.copy(), case.labels.array.copy()
    for seed in range(4):
        made = planted(case, shapes, seed, kind)
        (lesion,) = made.lesions
        grown = made.labels.array == BY_NAME[kind].value
        assert lesion.kind == kind
        assert lesion.volume_ml == pytest.approx(grown.sum() * 0.008)
        centre = case.image.geometry.to_world(np.argwhere(grown).mean(0))
        assert np.allclose(lesion.centre_mm, centre)
        assert lesion.shape in {s.name for s in shapes.of(kind)}
        assert set(np.unique(case.labels.array[grown])) <= {0, ORGANS[kind]}
        assert (case.labels.array[grown] == ORGANS[kind]).any()
        # Spleen and muscle are left alone, far away nothing changes.
        spleen = case.labels.array == BY_NAME["spleen"].value
        assert (made.image.array[spleen] == case.image.array[spleen]).all()
        assert not grown[:, 67:].any()
    assert (case.image.array == before[0]).all()
    assert (case.labels.array == before[1]).all()


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("kidney_tumor", 35, KIDNEY_HU),
        ("kidney_cyst", -10, 75),
        ("pancreas_tumor", PANCREAS_HU - 75, PANCREAS_HU - 4),
    ],
)
def test_attenuation_is_the_kinds_own(shapes: Shapes, kind: Kind, low: float, high: float) -> None:
    for seed in range(5):
        made = planted(patient(), shapes, seed, kind)
        inside = made.image.array[made.labels.array == BY_NAME[kind].value]
        assert low < np.median(inside) < high


def test_without_contrast_a_tumor_hardly_shows(shapes: Shapes) -> None:
    case = patient()
    hu = case.image.array.copy()
    for name, level in (("kidney", 30), ("pancreas", 40), ("spleen", 50)):
        organ = case.labels.array == BY_NAME[name].value
        hu[organ] = level + hu[organ] - round(float(np.median(hu[organ])))
    plain = dataclasses.replace(case, image=case.image.with_array(hu))
    for seed in range(5):
        made = planted(plain, shapes, seed, "kidney_tumor")
        inside = made.image.array[made.labels.array == BY_NAME["kidney_tumor"].value]
        assert abs(np.median(inside) - 30) < 16


def test_lesions_lie_where_they_lay(shapes: Shapes) -> None:
    """Tumors high or low in a kidney, half of them bulging out; cancers in the head."""
    case, outside = patient(), []
    for seed in range(8):
        made = planted(case, shapes, seed, "kidney_tumor", (16, 22))
        grown = made.labels.array == BY_NAME["kidney_tumor"].value
        z, _, _ = np.argwhere(grown).mean(0)
        assert abs(z - 30) > 4
        bulge = float((case.labels.array[grown] == 0).mean())
        exophytic = next(s.exophytic for s in shapes.shapes if s.name == made.lesions[0].shape)
        outside.append((exophytic, bulge))
        made = planted(case, shapes, seed, "pancreas_tumor")
        grown = made.labels.array == BY_NAME["pancreas_tumor"].value
        assert np.argwhere(grown).mean(0)[2] < 60
    bulging = [b for e, b in outside if e > 0.3]
    within = [b for e, b in outside if e < 0.3]
    assert np.mean(bulging) > np.mean(within) + 0.1


def test_a_diameter_range_is_kept(shapes: Shapes) -> None:
    for seed in range(4):
        (lesion,) = planted(patient(), shapes, seed, "kidney_cyst", (12, 16)).lesions
        assert 0.75 * 12 < lesion.diameter_mm < 1.15 * 16


def test_thick_slices_have_partial_volume(shapes: Shapes) -> None:
    """A cyst's darkness is shared out: what its slices hold is what its volume is."""
    case = patient((5.0, 1.0, 1.0))
    made = planted(case, shapes, 3, "kidney_cyst", (18, 18))
    (lesion,) = made.lesions
    darker = (case.image.array.astype(float) - made.image.array)[made.labels.array == 5]
    organ = case.labels.array == BY_NAME["kidney"].value
    lost = (case.image.array.astype(float) - made.image.array)[organ | (made.labels.array == 5)]
    level = float(np.quantile(darker, 0.75))
    assert lost.sum() * 0.005 == pytest.approx(level * lesion.volume_ml, rel=0.3)
    # Not all or nothing: some voxels are in between.
    assert ((lost > 0.25 * level) & (lost < 0.7 * level)).sum() > 20


def test_annotated_grows_by_the_lesions_of_its_organs(shapes: Shapes) -> None:
    case = dataclasses.replace(patient(), annotated=("kidney", "spleen"))
    made = plant_case(case, shapes, np.random.default_rng(0))
    assert made.annotated == ("kidney", "spleen", "kidney_tumor", "kidney_cyst")
    assert {lesion.kind for lesion in made.lesions} <= {"kidney_tumor", "kidney_cyst"}
    spleen = dataclasses.replace(case, annotated=("spleen",))
    made = plant_case(spleen, shapes, np.random.default_rng(0))
    assert made.lesions == ()
    assert made.annotated == ("spleen",)
    assert (made.image.array == case.image.array).all()


def test_whatever_the_order_of_axes_the_patient_is_the_same(shapes: Shapes) -> None:
    case = patient()
    turned = case.image.geometry.transposed((2, 0, 1), (True, False, True))

    def other(volume: Volume) -> Volume:
        array = volume.array.transpose((2, 0, 1))[::-1, :, ::-1]
        return Volume(np.ascontiguousarray(array), turned)

    same = Loaded("turned", other(case.image), other(case.labels), case.annotated)
    one, two = (planted(c, shapes, 1, "kidney_tumor") for c in (case, same))
    assert (to_canonical(two.labels).array == one.labels.array).all()
    assert (to_canonical(two.image).array == one.image.array).all()
    assert np.allclose(one.lesions[0].centre_mm, two.lesions[0].centre_mm)
    assert two.image.geometry.close_to(turned)


def test_the_same_seed_gives_the_same_lesions(shapes: Shapes) -> None:
    case = patient()
    one, two = (plant_case(case, shapes, np.random.default_rng(7)) for _ in range(2))
    assert one.lesions == two.lesions
    assert (one.image.array == two.image.array).all()


def test_a_pancreas_has_one_cancer(shapes: Shapes) -> None:
    made = plant_case(
        patient(), shapes, np.random.default_rng(0), ("pancreas_tumor",), count=(3, 3)
    )
    assert len(made.lesions) == 1


def test_phantoms_are_cases_too(shapes: Shapes) -> None:
    phantom = make_phantom(3, "a-thin-portal", tumors=False, spacing_mm=(4, 3, 3))
    case = Loaded("phantom", phantom.volume, phantom.labels, phantom.annotated)
    made = plant_case(case, shapes, np.random.default_rng(1), count=(2, 2))
    assert made.lesions
    assert made.annotated == phantom.annotated
    assert (made.image.array != phantom.volume.array).any()


def test_fat_is_where_lesions_bulge_not_muscle(shapes: Shapes) -> None:
    """A kidney between two slabs of muscle: whatever bulges out does so into the fat."""
    case = patient()
    hu = case.image.array.copy()
    hu[:, :32] = 55
    pressed = dataclasses.replace(case, image=case.image.with_array(hu))
    bulging = 0
    for seed in range(4):
        made = planted(pressed, shapes, seed, "kidney_tumor")
        grown = (made.labels.array == BY_NAME["kidney_tumor"].value) & (case.labels.array == 0)
        assert not grown[:, :30].any()
        assert (case.image.array[grown] > FAT_HU + 60).sum() <= 0.1 * grown.sum()
        bulging += int(grown.sum())
    assert bulging > 50


def test_refusals(shapes: Shapes) -> None:
    rng, case = np.random.default_rng(0), patient()
    with pytest.raises(BadParameter, match="no real shapes of"):
        plant_case(case, shapes, rng, ("liver_tumor",))
    with pytest.raises(BadParameter, match="choose from"):
        plant_case(case, shapes, rng, ())
    with pytest.raises(BadParameter, match=r"count \(3, 1\)"):
        plant_case(case, shapes, rng, count=(3, 1))
    with pytest.raises(BadParameter, match="diameter_mm"):
        plant_case(case, shapes, rng, diameter_mm=(0, 5))
    with pytest.raises(BadParameter, match="holds none"):
        plant_case(case, Shapes("train", ()), rng)
    with pytest.raises(BadParameter, match="holds no kidney_cyst"):
        plant_real(
            case.image.array, case.labels.array, (2, 2, 2), "kidney_cyst", rng, Shapes("train", ())
        )
