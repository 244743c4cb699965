"""What differs between scanners: kernel, noise, streaks, slices, length, field of view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from imaging.errors import BadParameter
from imaging.nifti import AIR_HU
from training.augment.extent import left_out
from training.augment.filters import between, gaussian, slabs, spline
from training.augment.scanner import noisy, other_kernel, thick_slices
from training.recipe import Augment

SPACING = (2.0, 2.0, 2.0)
SHAPE = (24, 40, 48)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def body() -> Tensor:
    """A cylinder of water in air."""
    y, x = torch.meshgrid(torch.arange(40) - 20, torch.arange(48) - 24, indexing="ij")
    disc = torch.where(x**2 / 400 + y**2 / 144 < 1, 0.0, float(AIR_HU))
    return disc.expand(SHAPE).clone()


@pytest.mark.parametrize("n", [5, 24])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 3.0])
def test_a_blur_keeps_what_is_even(n: int, sigma: float) -> None:
    weights = gaussian(n, sigma)
    assert torch.allclose(weights.sum(1), torch.ones(n))
    assert (weights.diagonal() >= weights.max(1).values).all()


@pytest.mark.parametrize("knots", [4, 7])
def test_control_points_on_a_line_give_that_line(knots: int) -> None:
    at = 2 * (torch.arange(knots, dtype=torch.float32) - 1) / (knots - 3) - 1
    voxels = (torch.arange(30) + 0.5) / 15 - 1
    assert torch.allclose(spline(30, knots) @ (3 * at + 2), 3 * voxels + 2, atol=1e-5)


def test_blocks_are_interpolated_between_their_middles() -> None:
    back = between(7, 2, 4) @ torch.tensor([0.5, 2.5, 4.5, 6.5])
    assert torch.allclose(back, torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))


@pytest.mark.parametrize("seed", range(5))
def test_thick_slices_average_along_z_only(seed: int) -> None:
    settings = Augment(thick_p=1.0, thick_mm=(6.0, 6.0))
    line = torch.zeros(24)
    line[12] = 300.0
    image = line[:, None, None] + torch.arange(5.0)
    thick = thick_slices(image, SPACING, settings, rng(seed))
    profile = thick[:, 0, 0]
    # A bright slice of 2 mm is at most a third of one of 6 mm.
    assert 20 < profile.max() <= 101
    assert (profile > 1).sum() >= 3
    assert torch.allclose(thick - thick[..., :1], torch.arange(5.0).expand(24, 1, 5), atol=1e-3)


def test_slices_as_thin_as_voxels_change_nothing() -> None:
    image = torch.from_numpy(rng(0).standard_normal((9, 4, 4), dtype=np.float32))
    settings = Augment(thick_p=1.0, thick_mm=(0.7, 2.0))
    assert torch.equal(thick_slices(image, SPACING, settings, rng(1)), image)
    assert torch.equal(thick_slices(image[:1], SPACING, Augment(thick_p=1.0), rng(1)), image[:1])


@pytest.mark.parametrize("thickness", [1.2, 2.5, 4.0])
def test_every_slice_is_a_mean(thickness: float) -> None:
    weights = slabs(20, thickness, thickness, 0.3)
    assert weights.shape == (20, 20)
    assert torch.allclose(weights.sum(1), torch.ones(20), atol=1e-5)
    assert (weights >= 0).all()


def test_kernels_soften_or_sharpen_edges() -> None:
    image, edges = body(), {}
    settings = Augment(blur_mm=3.0, sharpen=2.0)
    for seed in range(30):
        changed, softness = other_kernel(image, SPACING, settings, rng(seed))
        edges[float(softness)] = float((changed[:, 20, 1:] - changed[:, 20, :-1]).abs().max())
    before = float(-AIR_HU)
    assert edges[0.0] == before, "not every patch"
    assert min(edges) < -0.2
    assert max(edges) > 0.2
    assert all(edge > before for softness, edge in edges.items() if softness < -0.1)
    assert all(edge < before for softness, edge in edges.items() if softness > 0.3)


def _noise(settings: Augment, softness: float, least: float) -> Tensor:
    """Noise of the first seed with at least so much of it."""
    for seed in range(20):
        noise = noisy(body(), SPACING, softness, settings, rng(seed)) - body()
        if noise.std() > least:
            return noise
    raise AssertionError("no seed gave noise")


def test_soft_kernels_have_coarse_noise() -> None:
    def correlation(noise: Tensor) -> float:
        pairs = torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()])
        return float(torch.corrcoef(pairs)[0, 1])

    settings = Augment(noise_hu=30.0, grain_mm=6.0)
    assert correlation(_noise(settings, 1.0, 8.0)) > 0.3
    assert abs(correlation(_noise(settings, -1.0, 8.0))) < 0.05
    assert abs(correlation(_noise(Augment(noise_hu=30.0), 1.0, 8.0))) < 0.05


def test_noise_is_strongest_where_rays_cross_most() -> None:
    # A wide body, so that its middle row takes most.
    wide = Augment(noise_hu=30.0, starve=1.0)
    image = body().repeat_interleave(4, 2)
    noise = next(
        n
        for n in (noisy(image, SPACING, 0.0, wide, rng(s)) - image for s in range(20))
        if n.std() > 5
    )
    assert noise[:, 20].std() > 1.5 * noise[:, 2].std()


def test_streaks_run_from_left_to_right_through_the_widest() -> None:
    streaks = _noise(Augment(streak_hu=40.0), 0.0, 2.0)
    assert torch.allclose(streaks, streaks[..., :1].expand(SHAPE), atol=1e-3)
    assert streaks[:, 20].std() > 3 * streaks[:, 1].std()


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_leaves_whole_slices_and_air(seed: int) -> None:
    image, target = torch.full(SHAPE, 50.0), torch.full(SHAPE, 6, dtype=torch.uint8)
    cut, labels = left_out(image, target, SPACING, Augment(cut_p=1.0), rng(seed))
    kept = labels[:, 0, 0] > 0
    assert torch.equal(cut, torch.where(kept[:, None, None], image, torch.tensor(float(AIR_HU))))
    assert torch.equal(labels > 0, kept[:, None, None].expand(SHAPE))
    assert kept.sum() >= 0.34 * len(kept)
    assert torch.equal(target, torch.full(SHAPE, 6, dtype=torch.uint8)), "the input stays"
    assert (kept[1:] != kept[:-1]).sum() <= 2, "in one piece"


def test_a_field_of_view_is_the_same_in_all_slices() -> None:
    image, target = torch.full((4, 150, 150), 50.0), torch.ones((4, 150, 150), dtype=torch.uint8)
    settings = Augment(field_p=1.0, field_mm=(60.0, 60.0))
    boxes = 0
    for seed in range(12):
        seen, labels = left_out(image, target, SPACING, settings, rng(seed))
        assert torch.equal(seen == 50, labels == 1)
        assert torch.equal(labels, labels[:1].expand_as(labels))
        area = float(labels[0].sum()) * 4
        assert area == pytest.approx(np.pi * 60**2, rel=0.05) or area == pytest.approx(
            4 * 60 * 48, rel=0.05
        )
        boxes += area > 11_400
    assert 0 < boxes < 12


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"phase_p": 1.2}, "phase_p"),
        ({"starve": -0.1}, "starve"),
        ({"bend_mm": -1.0}, "bend_mm"),
        ({"thick_mm": (5.0, 2.0)}, "thick_mm"),
        ({"scale": (-0.5, 1.0)}, "scale"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(BadParameter, match=named):
        Augment(**wrong)  # type: ignore[arg-type]
