"""CTs that benchmarks make where none is given: 512x512 pixels, any number of slices."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from imaging.geometry import Geometry
from imaging.resample import resample_linear
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from training.phantoms import make_phantom
from training.phantoms.styles import STYLES

SLICES = 119
_PIXELS = 512
_SPACING_MM = (1.6, 0.74, 0.74)
# Anatomy is painted on voxels of that many of the CT's: painting 700 slices takes minutes and 4 GB.
_COARSER = (2, 4, 4)
_STYLE = STYLES["a-thin-portal"]
_SEED = 7
_SLAB = 32


def phantom(folder: Path, slices: int = SLICES) -> Path:
    """A scan of one body, longer with more slices of 1.6 mm; NIfTI, about its kidneys.

    Args:
        folder: where to write it.
        slices: at least 16.

    Raises:
        BadParameter: fewer slices.
    """
    return _scan(_body(slices), slices, folder / f"phantom-{slices}.nii.gz")


def repeated(folder: Path, slices: int) -> Path:
    """An abdomen of 119 slices, cut, or mirrored end to end: every slice holds about as much.

    Args:
        folder: where to write it.
        slices: any number, of 1.6 mm.
    """
    body = _body(SLICES)
    wanted = -(-slices // _COARSER[0])
    more = (0, max(0, wanted - len(body.array)))
    array = np.pad(body.array, (more, (0, 0), (0, 0)), mode="symmetric")[:wanted]
    grid = dataclasses.replace(body.geometry, shape=array.shape)
    return _scan(Volume(array, grid), slices, folder / f"repeated-{slices}.nii.gz")


def _body(slices: int) -> Volume:
    """Anatomy without noise, on coarse voxels."""
    _, pixels, _ = (_PIXELS // n for n in _COARSER)
    z, y, x = (mm * n for mm, n in zip(_SPACING_MM, _COARSER, strict=True))
    style = dataclasses.replace(_STYLE, noise_hu=0.0)
    shape = (-(-slices // _COARSER[0]), pixels, pixels)
    return make_phantom(_SEED, style, shape=shape, spacing_mm=(z, y, x)).volume


def _scan(body: Volume, slices: int, path: Path) -> Path:
    """Write a body as a scanner with noise sees it, from its first slice on."""
    coarse = body.geometry
    first = [(1 / n - 1) / 2 for n in _COARSER]
    x, y, z = coarse.to_world(first).tolist()
    grid = Geometry((slices, _PIXELS, _PIXELS), _SPACING_MM, (x, y, z), coarse.direction)
    rng = np.random.default_rng(_SEED)
    array = np.empty(grid.shape, np.int16)
    for z in range(0, slices, _SLAB):
        slab = array[z : z + _SLAB]
        seen = resample_linear(body, grid.crop((z, 0, 0), slab.shape), -1024).array
        noise = rng.standard_normal(slab.shape, np.float32) * np.float32(_STYLE.noise_hu)
        slab[:] = np.clip(np.rint(seen + noise), -1024, 3071)
    write_nifti(Volume(array, grid), path)
    return path
