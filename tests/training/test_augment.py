"""Augmentation: geometry moves CT and labels together, contrast follows tissue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imaging.nifti import AIR_HU
from training.augment import augment_input, augment_patch, keeps_place
from training.recipe import Augment

SPACING = (2.0, 2.0, 2.0)
STRONG = Augment(rotate_deg=(25.0, 15.0, 15.0), scale=(0.8, 1.25), shift=0.1)
PATCHES = [(20, 24, 28), (1, 32, 32)]


def region(patch: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = (n + 2 * int(n * 0.2) for n in patch)
    return z, y, x


def block(patch: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A bright labelled block (value 3) off the middle of the region."""
    shape = region(patch)
    labels = np.zeros(shape, np.uint8)
    spans = [slice(0, 1) if n == 1 else slice(n // 2 - n // 5, n // 2 + n // 6) for n in shape]
    labels[tuple(spans)] = 3
    return np.where(labels > 0, 150, -100).astype(np.float32), labels


def augmented(
    hu: np.ndarray,
    labels: np.ndarray,
    patch: tuple[int, int, int],
    settings: Augment,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    image, target = augment_patch(hu, labels, patch, SPACING, settings, np.random.default_rng(seed))
    assert image.shape == target.shape == patch
    assert (image.dtype, target.dtype) == (torch.float32, torch.uint8)
    return image.numpy(), target.numpy()


@pytest.mark.parametrize("patch", [*PATCHES, (7, 9, 11), (1, 15, 17)])
def test_without_settings_it_is_the_centre_crop(patch: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    shape = region(patch)
    hu = rng.uniform(-1000, 1000, shape).astype(np.float32)
    labels = rng.integers(0, 12, shape).astype(np.uint8)
    image, target = augmented(hu, labels, patch, Augment())
    crop = tuple(slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(shape, patch, strict=True))
    assert np.allclose(image, hu[crop], atol=0.05)
    assert np.array_equal(target, labels[crop])


@pytest.mark.parametrize("patch", PATCHES)
def test_the_generator_decides_everything(patch: tuple[int, int, int]) -> None:
    hu, labels = block(patch)
    settings = Augment(
        rotate_deg=(20, 10, 10),
        scale=(0.8, 1.2),
        shift=0.1,
        mirror=(True, True, True),
        contrast=(0, 1.3),
        organ_hu=20,
        noise_hu=20,
        blur_mm=2,
        offset_hu=10,
    )
    first, again = (augmented(hu, labels, patch, settings, 4) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert np.array_equal(first[0], augmented(hu, labels, patch, settings, 4)[0])
    assert not np.array_equal(first[0], augmented(hu, labels, patch, settings, 5)[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("patch", PATCHES)
def test_ct_and_labels_move_together(patch: tuple[int, int, int], seed: int) -> None:
    hu, labels = block(patch)
    image, target = augmented(hu, labels, patch, STRONG, seed)
    bright, marked = image > 25, target == 3
    assert marked.any()
    assert not np.array_equal(target, augmented(hu, labels, patch, Augment())[1]), "it moved"
    assert 2 * (bright & marked).sum() / (bright.sum() + marked.sum()) >= 0.9


@pytest.mark.parametrize("patch", PATCHES)
def test_label_values_stay_those_that_were_there(patch: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([0, 3, 11, 255], np.uint8), region(patch))
    hu = np.zeros(labels.shape, np.float32)
    for seed in range(3):
        assert set(np.unique(augmented(hu, labels, patch, STRONG, seed)[1])) <= {0, 3, 11, 255}


@pytest.mark.parametrize(("zoom", "smaller"), [(1.25, False), (0.8, True)])
@pytest.mark.parametrize("patch", [(32, 32, 32), (1, 48, 48)])
def test_zoom_over_one_makes_things_larger(
    patch: tuple[int, int, int], zoom: float, smaller: bool
) -> None:
    shape = region(patch)
    at = np.indices(shape) - (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2
    labels = (np.abs(at).max(0) < 8.1).astype(np.uint8)
    hu = np.zeros(shape, np.float32)
    target = augmented(hu, labels, patch, Augment(scale=(zoom, zoom)))[1]
    before = np.count_nonzero(augmented(hu, labels, patch, Augment())[1])
    grown = (np.count_nonzero(target) / before) ** (1 / (2 if patch[0] == 1 else 3))
    assert (grown < 1) == smaller
    assert grown == pytest.approx(zoom, rel=0.1)


def test_rotation_angles_are_in_the_order_of_the_axes() -> None:
    patch = (24, 24, 24)
    labels = np.zeros(region(patch), np.uint8)
    # A bar along each axis in turn: it stays where it is when turned about its own axis only.
    for axis in range(3):
        labels[:] = 0
        place = [slice(4, 12)] * 3
        place[axis] = slice(None)
        labels[tuple(place)] = 1
        for about in range(3):
            angles = tuple(40.0 if a == about else 0.0 for a in range(3))
            turned = augmented(
                labels.astype(np.float32), labels, patch, Augment(rotate_deg=angles), 3
            )[1]
            constant = bool((turned == turned.take([0], axis)).all())
            assert constant == (axis == about), (axis, about)


def test_a_shift_stays_within_its_part_of_the_patch() -> None:
    patch = (20, 20, 20)
    shape = region(patch)
    ramp = np.arange(shape[2], dtype=np.float32) * np.ones(shape, np.float32)
    labels = np.zeros(shape, np.uint8)
    still = augmented(ramp, labels, patch, Augment())[0].mean()
    moved = [
        float(augmented(ramp, labels, patch, Augment(shift=0.1), seed)[0].mean() - still)
        for seed in range(12)
    ]
    assert max(map(abs, moved)) <= 2.01
    assert min(moved) < -0.5
    assert max(moved) > 0.5


def _colours(settings: Augment, seed: int, values: list[float]) -> np.ndarray:
    hu = np.repeat(np.array(values, np.float32), 4).reshape(1, -1, 1) * np.ones((4, 1, 4))
    hu = hu.astype(np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    image = augmented(hu, labels, hu.shape, settings, seed)[0]
    return np.round(image[0, 1::4, 0], 2)


def test_without_contrast_agent_enhanced_tissue_is_45_hu() -> None:
    values = [-1024.0, -900.0, -100.0, 10.0, 45.0, 110.0, 180.0, 300.0, 900.0]
    expected = [-1024.0, -900.0, -100.0, 10.0, 45.0, 45.0, 45.0, 300.0, 900.0]
    found = [_colours(Augment(contrast=(0.0, 0.0)), seed, values).tolist() for seed in range(20)]
    assert all(f in (values, expected) for f in found)
    assert values in found
    assert expected in found


def test_more_contrast_brightens_what_is_enhanced_only() -> None:
    values = [-100.0, 45.0, 145.0, 400.0]
    found = [_colours(Augment(contrast=(1.3, 1.3)), seed, values).tolist() for seed in range(20)]
    assert [-100.0, 45.0, 175.0, 400.0] in found


def test_every_structure_gets_its_own_shift() -> None:
    patch = (12, 12, 12)
    labels = np.zeros(patch, np.uint8)
    labels[:, :4], labels[:, 8:] = 1, 6
    image, target = augmented(
        np.full(patch, 50, np.float32), labels, patch, Augment(organ_hu=20.0), 3
    )
    shifts = {v: np.unique(image[target == v]) for v in (0, 1, 6)}
    assert all(np.ptp(s) < 1e-3 for s in shifts.values())
    assert shifts[0][0] == pytest.approx(50)
    assert shifts[1][0] != shifts[6][0]
    assert all(0 < abs(s[0] - 50) <= 20 for v, s in shifts.items() if v)


def test_noise_blur_and_offset_stay_within_their_settings() -> None:
    patch = (16, 16, 16)
    hu = np.random.default_rng(0).normal(0, 30, patch).astype(np.float32)
    labels = np.zeros(patch, np.uint8)
    plain = augmented(hu, labels, patch, Augment())[0]
    noise = [
        float((augmented(hu, labels, patch, Augment(noise_hu=25.0), s)[0] - plain).std())
        for s in range(12)
    ]
    assert min(noise) < 0.01, "not every patch"
    assert 5 < max(noise) < 26
    blurred = [augmented(hu, labels, patch, Augment(blur_mm=4.0), s)[0].std() for s in range(12)]
    assert min(blurred) < 0.8 * plain.std()
    assert max(blurred) > 0.99 * plain.std()
    offset = augmented(hu, labels, patch, Augment(offset_hu=10.0), 1)[0] - plain
    assert 0 < abs(float(offset.mean())) <= 10
    assert offset.std() < 1e-3


def test_nothing_is_darker_than_air() -> None:
    patch = (8, 8, 8)
    hu, labels = np.full(patch, AIR_HU, np.float32), np.zeros(patch, np.uint8)
    for seed in range(5):
        image = augmented(hu, labels, patch, Augment(offset_hu=50.0), seed)[0]
        assert image.min() >= AIR_HU


def test_mirroring_turns_ct_and_labels_over_together() -> None:
    patch = (6, 8, 10)
    labels = np.arange(480, dtype=np.uint8).reshape(patch)
    hu = labels.astype(np.float32)
    seen = set()
    for seed in range(40):
        image, target = augment_patch(
            hu,
            labels,
            patch,
            SPACING,
            Augment(mirror=(True, False, True)),
            np.random.default_rng(seed),
            still=True,
        )
        assert torch.equal(image, target.float())
        seen.add(image.numpy().tobytes())
    turned = [hu, hu[::-1], hu[:, :, ::-1], hu[::-1, :, ::-1]]
    assert seen == {np.ascontiguousarray(t).tobytes() for t in turned}


def test_a_patch_keeps_its_place_unless_something_moves_it() -> None:
    rng = np.random.default_rng(0)
    assert keeps_place(Augment(noise_hu=5, mirror=(True, True, True)), rng)
    assert not keeps_place(Augment(shift=0.1), rng)
    some = Augment(affine_p=0.2, scale=(0.7, 1.4))
    assert np.mean([keeps_place(some, rng) for _ in range(2000)]) == pytest.approx(0.8, abs=0.03)


VALUES = torch.tensor([-1.0, -0.5, 0.0, 1.0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Augment(input_p=1.0, brightness=(0.5, 0.5)), [-0.5, -0.25, 0.0, 0.5]),
        # About the mean of -0.125; stretched values stay within the old range.
        (Augment(input_p=1.0, spread=(0.5, 0.5)), [-0.5625, -0.3125, -0.0625, 0.4375]),
        (Augment(input_p=1.0, spread=(2.0, 2.0)), [-1.0, -0.875, 0.125, 1.0]),
        (Augment(input_p=1.0, gamma=(2.0, 2.0)), [-1.0, -0.875, -0.5, 1.0]),
        (Augment(input_p=0.0, gamma=(2.0, 2.0), input_noise=3.0), VALUES.tolist()),
        (Augment(input_p=1.0), VALUES.tolist()),
    ],
)
def test_changes_of_the_input(settings: Augment, expected: list[float]) -> None:
    found = augment_input(VALUES, settings, np.random.default_rng(0))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_input_noise_has_at_most_its_strength() -> None:
    zeros = torch.zeros(20_000)
    settings = Augment(input_p=1.0, input_noise=0.3)
    found = [
        float(augment_input(zeros, settings, np.random.default_rng(seed)).std())
        for seed in range(20)
    ]
    assert 0.2 < max(found) < 0.31
    assert min(found) < 0.1
