"""What a scan is like where a lesion goes: room, grain, point spread, contrast phase."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.labels import BY_NAME
from training.shapes import F32

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Phase = Literal["none", "arterial", "portal"]

# Where a lesion may grow beside its organ: fat, judged on a local mean (HU), and in the organ's
# bays fat mixed with urine and small vessels. Bone, muscle and bowel wall are brighter, gas is
# darker; stool is neither, but has gas in it.
_GIVES_WAY_HU, _IN_BAYS_HU = (-170.0, -20.0), 20.0
_BAY = 0.6
_NEVER_BELOW_HU = -250.0
_GAS_SHARE = 0.01
_FAT_HU = (-170.0, -50.0)
# The mean is taken over so far on each side: what is thinner than that, strands and small vessels,
# is grown over.
_ROOM_MM = 4.5
# An organ's label ends a little before or after the organ.
_MIN_WEIGHT = 0.1
# Soft-tissue kernels blur with about this Gaussian (mm); measured where skin is in view.
_SPREAD_MM = 0.7
_SPREAD_RANGE_MM = (0.3, 1.5)
_SKIN_SLICES = 8
_SKIN_EDGES = 50
# Median HU above which an organ has contrast medium in it: unenhanced kidneys are at 30, spleens
# at 50, pancreases at 40, livers at 60.
_ENHANCED_HU = {"kidney": 70.0, "spleen": 72.0, "pancreas": 68.0, "liver": 80.0}
# In the arterial phase the spleen is ahead of the liver, and the kidney's cortex of its medulla.
_SPLEEN_AHEAD_HU = 30.0
_CORTEX_AHEAD_HU = 75.0
_STRIDE_MM = 3.0
# Where noise is taken from instead, in voxels along (y, x): beyond the reach of one edge.
_FAINT = 0.3
# The 0.35 quantile of a normal distribution's magnitude, in standard deviations; what is beyond
# three of them in more than a tenth of the voxels around is no noise.
_QUANTILE, _OF_NORMAL = 0.35, 0.4538
_ODD, _ODD_SHARE = 3.0, 0.1
_SHIFTS = ((3, 9), (-9, 4), (13, -5), (-6, -15))


def local_mean(hu: F32) -> F32:
    """Mean (Z, Y, X) over 3 voxels along z and 5 in the slice."""
    return _mean(hu, (1, 2, 2))


def room(hu: F32, labels: NDArray[np.uint8], organ: Mask, spacing: Spacing) -> Mask:
    """Where a lesion of an organ can be: in it, and in the unlabelled fat and fluid around.

    Args:
        hu, labels, organ: (Z, Y, X) of a box; the organ is one part of its label.
        spacing: (z, y, x) mm.
    """
    beside = ~organ
    radius = (int(_ROOM_MM / spacing[0]), int(_ROOM_MM / spacing[1]), int(_ROOM_MM / spacing[2]))
    weight = _mean(beside.astype(np.float32), radius)
    mean = _mean(np.where(beside, hu, np.float32(0)), radius) / np.maximum(weight, _MIN_WEIGHT)
    gas = hu < _NEVER_BELOW_HU
    near_gas = _mean(gas.astype(np.float32), radius) >= _GAS_SHARE if gas.any() else gas
    most = np.where(weight < _BAY, _IN_BAYS_HU, _GIVES_WAY_HU[1])
    soft = (mean > _GIVES_WAY_HU[0]) & (mean < most) & ~near_gas
    free: Mask = organ | (soft & (labels == 0))
    return free


def grain(hu: F32, organ: Mask, local: F32, hollow: bool) -> F32:
    """The image's noise (Z, Y, X): what is left without the local mean.

    Organ and surroundings are averaged apart, and at the organ's surface and at vessels and
    calyces the noise is taken from nearby, or they would show inside the lesion; what passes for
    noise at other edges is limited. What fills a hollow organ is all
    edges: there the noise is that of the fat around, 0 where there is none.
    """
    part = local_mean(organ.astype(np.float32))
    own = local_mean(np.where(organ, hu, np.float32(0)))
    mean = np.where(organ, own / np.maximum(part, 0.01), (local - own) / np.maximum(1 - part, 0.01))
    residual = np.asarray(hu - mean, dtype=np.float32)
    fat = ~organ & (local > _FAT_HU[0]) & (local < _FAT_HU[1])
    measured, most = (fat, 1.0) if hollow else (organ, 2.5)
    # A low quantile: what is larger may be structure.
    low = np.quantile(np.abs(residual[measured]), _QUANTILE) if measured.any() else 0.0
    noise = float(low) / _OF_NORMAL
    odd = local_mean((np.abs(residual) > _ODD * noise).astype(np.float32)) > _ODD_SHARE
    edge = ((part > 0.02) & (part < 0.98)) | (odd & ~fat)
    return np.clip(_mended(residual, edge), -most * noise, most * noise)


def _mended(residual: F32, edge: Mask) -> F32:
    """The noise with that of voxels some way off where there is an edge, in place."""
    for shift in _SHIFTS:
        other = np.roll(edge, shift, (1, 2))
        np.copyto(residual, np.roll(residual, shift, (1, 2)), where=edge & ~other)
        edge = edge & other
    residual[edge] *= _FAINT
    return residual


def point_spread_mm(hu: NDArray[Any], spacing: Spacing) -> float:
    """Standard deviation (mm) of the scan's blur in the slice, measured where air meets skin.

    A step of height h that a Gaussian blurs rises by h / (sd sqrt(2 pi)) a mm at most. Edges that
    are slanted look wider, so a low quartile counts.
    """
    rows = hu[:: max(1, hu.shape[0] // _SKIN_SLICES), ::2].astype(np.float32)
    before, after = rows[..., :-3], rows[..., 3:]
    height = np.abs(after - before)
    steepest = np.abs(rows[..., 2:-1] - rows[..., 1:-2])
    skin = (np.minimum(before, after) < -900) & (np.maximum(before, after) > -200)
    skin &= np.maximum(before, after) < 100
    if np.count_nonzero(skin) < _SKIN_EDGES:
        return _SPREAD_MM
    width = height[skin] / np.maximum(steepest[skin], 1.0) * spacing[2] / np.sqrt(2 * np.pi)
    return float(np.clip(np.quantile(width, 0.25), *_SPREAD_RANGE_MM))


def phase_of(hu: NDArray[Any], labels: NDArray[np.uint8], spacing: Spacing) -> Phase:
    """The contrast phase, from the organs that are labelled.

    The spleen stands for the blood: it takes up contrast medium with the aorta. Numbers are
    typical values, an assumption.
    """
    thin = tuple(slice(None, None, max(1, round(_STRIDE_MM / s))) for s in spacing)
    seen, named = hu[thin], labels[thin]
    found = {n: seen[named == BY_NAME[n].value] for n in _ENHANCED_HU}
    middle = {name: float(np.median(hus)) for name, hus in found.items() if len(hus) > 50}
    if not any(middle[name] > _ENHANCED_HU[name] for name in middle):
        return "none"
    ahead = middle.get("spleen", 0.0) - middle.get("liver", np.inf)
    if (
        "kidney" in middle
        and np.subtract(*np.quantile(found["kidney"], (0.85, 0.4))) > _CORTEX_AHEAD_HU
    ):
        return "arterial"
    return "arterial" if ahead > _SPLEEN_AHEAD_HU else "portal"


def _mean(array: F32, radius: tuple[int, int, int]) -> F32:
    """Mean over a box of so many voxels on each side along (z, y, x), of those that are there.

    Sums of shifted copies: for boxes this small several times as fast as ``sitk.BoxMean``.
    """
    found = array
    for axis, most in enumerate(radius):
        found = _running(found.swapaxes(0, axis), most).swapaxes(0, axis)
    return found


def _running(array: F32, radius: int) -> F32:
    """Mean along the first axis."""
    many = len(array)
    total = array.copy()
    for shift in range(1, min(radius, many - 1) + 1):
        total[shift:] += array[:-shift]
        total[:-shift] += array[shift:]
    at = np.arange(many)
    count = np.minimum(at + radius, many - 1) - np.maximum(at - radius, 0) + 1
    total /= count.astype(np.float32)[:, None, None]
    return total
