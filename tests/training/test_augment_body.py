"""What differs between people and protocols: bends, contrast phases, fillings, surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from imaging.errors import BadParameter
from imaging.nifti import AIR_HU
from models.labels import BY_NAME
from training.augment import augment_patch, keeps_place
from training.augment.hounsfield import PHASES, drawn
from training.augment.lumen import other_filling
from training.augment.phase import other_phase
from training.augment.surroundings import other_surroundings
from training.recipe import Augment

SPACING = (2.0, 2.0, 2.0)
SHAPE = (32, 64, 72)
# HU at the portal phase, (z, y, x) middles and radii in voxels.
ORGANS = {
    "liver": (110.0, (16, 28, 18), (13, 14, 10)),
    "spleen": (120.0, (16, 36, 56), (9, 10, 7)),
    "kidney": (190.0, (16, 50, 40), (11, 7, 7)),
}


def ball(middle: tuple[int, int, int], radii: tuple[int, int, int]) -> Tensor:
    lines = (torch.arange(n) for n in SHAPE)
    z, y, x = torch.meshgrid(*lines, indexing="ij")
    parts = zip((z, y, x), middle, radii, strict=True)
    return sum(((at - m) / r) ** 2 for at, m, r in parts) < 1  # type: ignore[return-value]


def scan(enhanced: bool = True, grain: float = 8.0) -> tuple[Tensor, Tensor]:
    """Organs, an aorta and a spine in fat, with muscle around."""
    image = torch.full(SHAPE, -100.0)
    image[:, 58:] = 55.0
    target = torch.zeros(SHAPE, dtype=torch.uint8)
    for name, (hu, middle, radii) in ORGANS.items():
        mask = ball(middle, radii)
        image[mask] = hu if enhanced else 40.0
        target[mask] = BY_NAME[name].value
    image[:, 10:18, 40:48] = 160.0 if enhanced else 40.0
    image[:, 6:18, 54:66] = 700.0
    image[:, 8:16, 56:64] = 180.0
    noise = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    return image + grain * torch.from_numpy(noise), target


def changed(phase: str, seed: int, enhanced: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    image, target = scan(enhanced)
    settings = Augment(phase_p=1.0, plain_p=float(phase == "none"))
    return image, target, other_phase(image, target, SPACING, settings, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_without_contrast_agent_everything_soft_is_dark(seed: int) -> None:
    image, target, plain = changed("none", seed)
    for name in ORGANS:
        mean = plain[target == BY_NAME[name].value].median()
        assert (-15 if name == "liver" else 15) < mean < 72, name
    aorta = (slice(8, 24), slice(12, 16), slice(42, 46))
    assert 20 < plain[aorta].mean() < 75
    # Fat, marrow, cortex and muscle are what they were.
    for part in (plain[:, :5] - image[:, :5], (plain - image)[:, 6:18, 54:66]):
        assert part.abs().mean() < 3
    assert (plain - image)[:, 61:].mean().abs() < 15


@pytest.mark.parametrize("seed", range(3))
def test_the_grain_stays(seed: int) -> None:
    _, target, plain = changed("none", seed)
    spleen = target == BY_NAME["spleen"].value
    inner = spleen & torch.from_numpy(_eroded(spleen.numpy()))
    assert 6 < plain[inner].std() < 13


def _eroded(mask: np.ndarray, voxels: int = 2) -> np.ndarray:
    inner = mask.copy()
    for axis in range(3):
        for step in (-voxels, voxels):
            inner &= np.roll(mask, step, axis)
    return inner


def test_kidneys_have_a_bright_cortex_in_the_arterial_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.augment.phase.drawn", lambda _, rng: drawn("early-arterial", rng))
    brighter = []
    for seed in range(6):
        _, target, arterial = changed("other", seed, enhanced=False)
        kidney = (target == BY_NAME["kidney"].value).numpy()
        rim = kidney & ~_eroded(kidney, 4) & _eroded(kidney, 1)
        brighter.append(arterial.numpy()[rim].mean() - arterial[14:19, 48:53, 38:43].mean())
    assert np.mean(brighter) > 20


def test_unlabelled_organs_follow_the_rest() -> None:
    image, target = scan()
    blank = torch.zeros_like(target)
    settings = Augment(phase_p=1.0, plain_p=1.0)
    for seed in range(3):
        plain = other_phase(image, blank, SPACING, settings, np.random.default_rng(seed))
        for name in ORGANS:
            assert 0 < plain[target == BY_NAME[name].value].median() < 80, (name, seed)


def test_a_wrong_mask_leaves_no_step() -> None:
    image, target = scan(grain=0.0)
    short = target.clone()
    # The mask leaves out a slab of liver.
    short[:, 24:, :][short[:, 24:, :] == BY_NAME["liver"].value] = 0
    steps = []
    for seed in range(4):
        settings = Augment(phase_p=1.0, plain_p=1.0)
        plain = other_phase(image, short, SPACING, settings, np.random.default_rng(seed))
        steps.append(float((plain[14:18, 19, 14:22].mean() - plain[14:18, 33, 14:22].mean()).abs()))
    assert max(steps) < 12


def test_lesions_keep_a_relation_to_their_organ() -> None:
    image, target = scan()
    tumor, cyst = ball((16, 50, 40), (5, 5, 5)), ball((14, 28, 18), (6, 6, 6))
    image[tumor], target[tumor] = 100.0, BY_NAME["kidney_tumor"].value
    image[cyst], target[cyst] = 8.0, BY_NAME["kidney_cyst"].value
    settings = Augment(phase_p=1.0, plain_p=1.0)
    for seed in range(4):
        plain = other_phase(image, target, SPACING, settings, np.random.default_rng(seed))
        assert 5 < plain[tumor].median() < 60
        assert -5 < plain[cyst].median() < 25


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_gives_every_value(phase: str) -> None:
    found = drawn(phase, np.random.default_rng(0))
    assert found.keys() >= {"liver", "spleen", "pancreas", "cortex", "medulla", "blood", "artery"}
    assert ("urine" in found) == (phase == "delayed")


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(BadParameter, match="venous"):
        drawn("venous", np.random.default_rng(0))


def test_stomachs_are_filled_and_keep_their_wall() -> None:
    image, target = scan()
    stomach = ball((16, 20, 40), (10, 9, 9))
    image[stomach], target[stomach] = 40.0, BY_NAME["stomach"].value
    seen = set()
    for seed in range(25):
        filled = other_filling(
            image, target, SPACING, Augment(filling_p=1.0), np.random.default_rng(seed)
        )
        middle = float(filled[14:19, 22:25, 38:43].mean())
        seen.add("agent" if middle > 120 else "gas" if middle < -400 else "other")
        assert (filled - image)[~stomach].abs().mean() < 6
    assert seen == {"agent", "gas", "other"}


def test_bowel_gas_gives_way_and_the_room_does_not() -> None:
    image, target = scan()
    image[:, :4] = -1000.0
    pocket = ball((16, 50, 16), (6, 5, 6))
    image[pocket] = -950.0
    filled = [
        other_filling(image, target, SPACING, Augment(filling_p=1.0), np.random.default_rng(s))
        for s in range(12)
    ]
    assert max(float(f[pocket].mean()) for f in filled) > 50
    assert min(float(f[pocket].mean()) for f in filled) < -940
    assert all(torch.equal(f[:, :3], image[:, :3]) for f in filled)


def standing() -> tuple[Tensor, Tensor]:
    """A body with lung and bowel gas in a wide room."""
    y, x = torch.meshgrid(torch.arange(100) - 45, torch.arange(120) - 60, indexing="ij")
    body = (x**2 / 45**2 + y**2 / 30**2 < 1).expand(12, 100, 120)
    image = torch.where(body, 40.0, -1000.0)
    image[:, 35:50, 30:50] = -850.0
    image[:, 35:45, 70:80] = -1000.0
    return image, body


def test_objects_lie_around_the_body_never_in_it() -> None:
    image, body = standing()
    target = torch.zeros(image.shape, dtype=torch.uint8)
    drawn_share = []
    for seed in range(20):
        seen = other_surroundings(
            image, target, SPACING, Augment(around_p=1.0), np.random.default_rng(seed)
        )
        inner = body.clone()
        # Blocks at the skin are half body.
        inner[:, :20] = False
        assert torch.equal(seen[inner], image[inner])
        drawn_share.append(float((seen[~body] > -900).float().mean()))
    assert max(drawn_share) > 0.05
    assert 0 < np.mean(np.array(drawn_share) > 0) <= 1


def test_a_patch_inside_the_body_has_no_surroundings() -> None:
    image, target = torch.full(SHAPE, 40.0), torch.zeros(SHAPE, dtype=torch.uint8)
    for filler in (40.0, float(AIR_HU)):
        image.fill_(filler)
        seen = other_surroundings(
            image, target, SPACING, Augment(around_p=1.0), np.random.default_rng(0)
        )
        assert torch.equal(seen, image)


def bent(settings: Augment, seed: int) -> tuple[np.ndarray, np.ndarray]:
    hu, labels = (t.numpy() for t in scan(grain=0.0))
    image, target = augment_patch(
        hu, labels, (24, 48, 52), SPACING, settings, np.random.default_rng(seed)
    )
    return image.numpy(), target.numpy()


@pytest.mark.parametrize("seed", range(4))
def test_a_bend_moves_ct_and_labels_together(seed: int) -> None:
    still, straight = bent(Augment(), seed)
    image, target = bent(Augment(bend_mm=10.0), seed)
    assert not np.array_equal(target, straight)
    kidney = target == BY_NAME["kidney"].value
    bright = (image > 155) & (image < 195)
    near = np.zeros_like(kidney)
    near[:, 36:, 22:40] = True
    assert np.abs(image - still).max() > 50
    assert (kidney & (image > 100)).sum() > 0.9 * kidney.sum()
    assert (kidney & bright).sum() > 0.75 * (bright & near).sum()


def test_one_organ_grows() -> None:
    sizes = []
    for seed in range(10):
        target = bent(Augment(organ_scale=(1.4, 1.4)), seed)[1]
        before = bent(Augment(), seed)[1]
        counts = [
            (target == BY_NAME[n].value).sum() / (before == BY_NAME[n].value).sum() for n in ORGANS
        ]
        sizes.append(max(counts))
    assert np.median(sizes) > 1.2


def test_bends_do_not_keep_their_place() -> None:
    assert not keeps_place(Augment(bend_mm=5.0), np.random.default_rng(0))
    assert not keeps_place(Augment(organ_scale=(0.8, 1.2)), np.random.default_rng(0))


EVERYTHING = Augment(
    phase_p=1.0,
    filling_p=1.0,
    around_p=1.0,
    thick_p=1.0,
    field_p=1.0,
    cut_p=1.0,
    bend_mm=5.0,
    organ_scale=(0.8, 1.25),
    rotate_deg=(10.0, 5.0, 5.0),
    contrast=(0.5, 1.2),
    organ_hu=20.0,
    blur_mm=2.0,
    sharpen=2.0,
    noise_hu=20.0,
    grain_mm=3.0,
    starve=0.5,
    streak_hu=20.0,
)


@pytest.mark.parametrize(
    ("patch", "spacing"),
    [
        ((24, 48, 52), SPACING),
        ((1, 48, 52), (3.0, 1.5, 1.5)),
        ((9, 11, 13), (5.0, 5.0, 5.0)),
    ],
)
def test_all_of_it_at_once_is_repeatable(
    patch: tuple[int, int, int],
    spacing: tuple[float, float, float],
) -> None:
    hu, labels = (t.numpy()[: 1 if patch[0] == 1 else None] for t in scan())
    hu, labels = np.ascontiguousarray(hu), np.ascontiguousarray(labels)
    before = hu.copy()
    for seed in range(4):
        for still in (False, True):
            size = hu.shape if still else patch
            first, again = (
                augment_patch(
                    hu, labels, size, spacing, EVERYTHING, np.random.default_rng(seed), still
                )
                for _ in range(2)
            )
            assert torch.equal(first[0], again[0])
            assert torch.equal(first[1], again[1])
            assert first[0].shape == first[1].shape == size
            assert first[0].dtype == torch.float32
            assert torch.isfinite(first[0]).all()
            assert first[0].min() >= AIR_HU
    assert np.array_equal(hu, before), "the case is not written to"
