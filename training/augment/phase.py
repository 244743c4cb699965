"""Another contrast phase: the organs' typical HU by their labels, an intensity curve elsewhere.

Labels are a voxel or two wrong, and a network must not learn their edge. So a voxel changes by what
it is (its own calm HU) before where it is: fat, water and muscle stay, the curve gives unlabelled
tissue nearly the organs' change, and masks are blurred and shifted anew each time. The image's
grain is left as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.labels import BY_NAME
from training.augment.coarse import Bool, Coarse
from training.augment.curves import MUSCLE_HU, Change, unlabelled_curve
from training.augment.hounsfield import PHASES, drawn
from training.recipe import Augment

F32 = NDArray[np.float32]

_ORGANS = ("liver", "spleen", "pancreas", "kidney")
_LESIONS = tuple(
    s.name for s in BY_NAME.values() if s.parent in _ORGANS and s.name != "hepatic_vessel"
)
# Soft tissue without contrast agent.
_PLAIN_HU = 38.0
# Where an organ meets fat its edge is a mixture. From fat's HU on, mixtures change in proportion,
# but so does muscle next to a mask that is too large; from soft tissue's on, muscle stays
# and the mixture leaves a bright rim. Drawn anew each time, neither is a mark of the mask's edge.
_FEET_HU = (-60.0, 20.0)
# An organ above it has taken up contrast agent.
_ENHANCED_HU = {"liver": 75.0, "spleen": 75.0, "kidney": 65.0, "pancreas": 65.0}
_FEWEST = 20
_SLICES = 8


def other_phase(
    image: Tensor,
    target: Tensor,
    spacing: tuple[float, float, float],
    settings: Augment,
    rng: np.random.Generator,
) -> Tensor:
    """The patch in a random contrast phase.

    Args:
        image: float32 HU (Z, Y, X).
        target: uint8 labels on the same voxels; organs may be missing.
        spacing: mm per voxel (Z, Y, X).
        settings: ``phase_p``, ``plain_p``.
        rng: the only source of randomness.
    """
    if not settings.phase_p or rng.random() >= settings.phase_p:
        return image
    others = [name for name in PHASES if name != "none"]
    phase = "none" if rng.random() < settings.plain_p else others[rng.integers(len(others))]
    wanted = drawn(phase, rng)
    patch = Coarse(image, target, spacing)
    means = _means(patch)
    blood = _blood(patch, means)
    weights, shifts, centres = _fields(patch, means, wanted, blood, rng)
    fields = patch.fine(weights, shifts, centres, patch.hu)
    change = Change(
        float(rng.uniform(*_FEET_HU)),
        _slope(means, wanted, blood),
        _grain(image, fields[-1]),
        unlabelled_curve(means, wanted, blood, rng),
    )
    # A few slices at a time stay in the processor's cache.
    parts = zip(*(torch.split(whole, _SLICES) for whole in (image, *fields)), strict=True)
    changed = torch.cat([change(*part) for part in parts])
    if "urine" in wanted:
        (pelvis,) = patch.fine(_pelvis(patch, rng))
        changed = torch.lerp(changed, torch.full_like(changed, wanted["urine"]), pelvis)
    return changed


def _means(patch: Coarse) -> dict[str, float]:
    """Median HU of what is labelled, lesions first: they lie in their organs."""
    found = {}
    for name in (*_LESIONS, *_ORGANS):
        values = patch.hu[patch.labels == BY_NAME[name].value]
        values = values[values > -30]
        if len(values) >= _FEWEST:
            found[name] = float(np.median(values))
    return found


def _blood(patch: Coarse, means: dict[str, float]) -> float | None:
    """HU of blood in the patch; ``None`` where no contrast agent is in it."""
    judged = [means[name] > limit for name, limit in _ENHANCED_HU.items() if name in means]
    if judged and not any(judged):
        return None
    unlabelled = patch.hu[(patch.labels == 0) & (patch.hu > 0) & (patch.hu < 250)]
    bright = unlabelled[unlabelled > 110]
    if not judged and len(bright) < 0.05 * len(unlabelled):
        return None
    return float(np.clip(np.percentile(bright, 60), 120, 220)) if len(bright) else 150.0


def _fields(
    patch: Coarse,
    means: dict[str, float],
    wanted: dict[str, float],
    blood: float | None,
    rng: np.random.Generator,
) -> tuple[F32, F32, F32]:
    """Weight of the labels' own change, and times it that change and the medians."""
    sigma, low = rng.uniform(2, 5), rng.uniform(0.15, 0.4)
    bone = patch.soft(patch.bone(max(160.0, 60 + (blood or 100.0))), 2.0)
    weights = np.clip(2.5 * bone, 0, 1)
    shifts = np.zeros_like(weights)
    centres = weights * MUSCLE_HU
    for name, mean in means.items():
        mask = patch.labels == BY_NAME[name].value
        exact = name not in _ORGANS
        blur = patch.soft(mask, 2.0 if exact else sigma) - (0.35 if exact else low)
        soft = np.clip(blur / 0.3, 0, 1) * (1 - weights)
        weights = weights + soft
        shifts += soft * (_wanted(name, mask, patch, means, wanted, rng) - mean)
        centres += soft * mean
    return weights, shifts.astype(np.float32), centres.astype(np.float32)


def _wanted(
    name: str,
    mask: Bool,
    patch: Coarse,
    means: dict[str, float],
    wanted: dict[str, float],
    rng: np.random.Generator,
) -> F32 | float:
    """The HU that a structure gets."""
    if name == "kidney_cyst":
        return means[name] + float(rng.uniform(-5, 5))
    if name == "kidney":
        return _kidney(mask, patch, wanted, rng)
    if name == "spleen" and wanted["mottled"]:
        return wanted["spleen"] + np.float32(wanted["mottled"]) * patch.smooth(rng, 9.0)
    if name in wanted:
        return wanted[name]
    return _lesion(name, str(BY_NAME[name].parent), means, wanted, rng)


def _kidney(mask: Bool, patch: Coarse, wanted: dict[str, float], rng: np.random.Generator) -> F32:
    """Cortex under the surface and between the pyramids, medulla deeper."""
    depth = patch.depth(mask)
    columns = 3 * patch.smooth(rng, 7.0)
    deep = np.clip((depth + columns - rng.uniform(5, 9)) / 4 + 0.5, 0, 1)
    mixed = wanted["cortex"] * (1 - deep) + wanted["medulla"] * deep
    return mixed.astype(np.float32)


def _lesion(
    name: str,
    organ: str,
    means: dict[str, float],
    wanted: dict[str, float],
    rng: np.random.Generator,
) -> float:
    """A lesion enhances by the part of its organ's enhancement that it has, or by a likely one."""
    after = wanted["cortex" if organ == "kidney" else organ] - _PLAIN_HU
    before = means.get(organ, _PLAIN_HU) - _PLAIN_HU
    part = (means[name] - _PLAIN_HU) / before if before > 30 else rng.uniform(0.2, 0.8)
    part = float(np.clip(part * rng.uniform(0.7, 1.3), 0, 1.2))
    return _PLAIN_HU + part * max(after, 0.0) + float(rng.uniform(-8, 8))


def _slope(means: dict[str, float], wanted: dict[str, float], blood: float | None) -> float:
    """How the liver's veins keep their distance from it."""
    if blood is None or "liver" not in means or blood < means["liver"] + 20:
        return 1.0
    slope = (wanted["blood"] - wanted["liver"]) / (blood - means["liver"])
    return float(np.clip(slope, -0.5, 1.5))


def _grain(image: Tensor, mean: Tensor) -> float:
    """What a voxel differs from its neighbours by noise, HU; more is an edge."""
    sampled = mean[..., ::5, ::5]
    grain = (image[..., ::5, ::5] - sampled)[(sampled - 80).abs() < 100]
    return 2.5 * 1.48 * float(grain.abs().median()) if len(grain) else 25.0


def _pelvis(patch: Coarse, rng: np.random.Generator) -> F32:
    """How much of a voxel is the kidney's pelvis and calyces: branches between its halves."""
    mask = patch.labels == BY_NAME["kidney"].value
    hull = patch.soft(mask, 9.0)
    depth = patch.depth(mask)
    middle = np.clip((hull - 0.35) / 0.1, 0, 1) * ((depth > 10) | (~mask & (patch.hu < 60)))
    branches = np.clip(0.5 - 2 * np.abs(patch.smooth(rng, 10.0)), 0, 0.5) * 2
    parts: F32 = (middle * branches).astype(np.float32)
    return parts
