"""From a painted abdomen to a CT as a scanner of some style sees it.

The anatomy (:mod:`training.phantoms.anatomy`) is painted on a moderate isotropic grid and brought
to a scanner's grid by its style: slice thickness and partial volume, kernel, noise, contrast phase,
field of view. Everything follows from one seed. Needs numpy and SimpleITK only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.geometry import Geometry
from imaging.volume import Volume
from models.labels import BY_NAME, STRUCTURES, structure, visible_as
from training.lesions import KINDS, Kind, Lesion, plant
from training.phantoms.anatomy import DRAWN, draw
from training.phantoms.canvas import AIR_HU, Canvas
from training.phantoms.patient import Frame, Patient, sample_frame, sample_hu
from training.phantoms.styles import STYLES, SiteStyle, sample_style
from training.shapes import F32

DRAWING_STEP_MM = 2.0
# All that a phantom can have labels for, and what it has labels for when nothing else is asked.
PAINTED: tuple[str, ...] = tuple(s.name for s in STRUCTURES if s.name in DRAWN or s.parent in DRAWN)
ANNOTATED: tuple[str, ...] = (
    "pancreas",
    "pancreas_tumor",
    "kidney",
    "kidney_tumor",
    "kidney_cyst",
    "liver",
    "spleen",
    "gallbladder",
    "stomach",
    "duodenum",
    "esophagus",
)
# Lesions grow in two rounds, each with its own randomness: a seed's phantom is the same with and
# without the second. A lesion grows through the vessels of the liver.
_ROUNDS: tuple[tuple[tuple[Kind, ...], tuple[str, ...]], ...] = (
    (tuple(kind for kind in KINDS if kind in ANNOTATED), ANNOTATED),
    (
        tuple(kind for kind in KINDS if kind not in ANNOTATED),
        tuple(name for name in PAINTED if name != "hepatic_vessel"),
    ),
)


@dataclass(frozen=True)
class Phantom:
    """One made case.

    Attributes:
        volume: HU, int16.
        labels: uint8, values of ``models.labels``, on the same grid.
        annotated: the structures that are labelled wherever they are in view; others have no
            label of their own (see :func:`relabelled`).
        lesions: planted ones, centres in voxel indices of the volume.
    """

    volume: Volume
    labels: Volume
    annotated: tuple[str, ...]
    lesions: tuple[Lesion, ...]


def make_phantom(
    seed: int,
    style: SiteStyle | str | None = None,
    *,
    tumors: bool | None = None,
    shape: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    structures: tuple[str, ...] = ANNOTATED,
) -> Phantom:
    """A random abdomen as one scanner sees it; the same arguments give the same voxels.

    Args:
        seed: of everything random.
        style: a style, the name of one of ``STYLES``, or ``None`` for a random one.
        tumors: whether lesions grow where their organ is in view; ``None`` leaves it to chance.
        shape: (Z, Y, X) instead of the style's.
        spacing_mm: (z, y, x) instead of the style's. With ``shape`` alone the style's extent is
            kept and the spacing follows.
        structures: what the labels name, of ``PAINTED``; only lesions among them grow. The
            anatomy is the same whatever they are.

    Raises:
        BadParameter: no such style or structure, or a grid under 8 voxels a side.
    """
    _check(structures)
    rng = np.random.default_rng(seed)
    style = _style(style, rng)
    frame = sample_frame(rng)
    grid = _grid(style, frame, rng, shape, spacing_mm)
    step = max(DRAWING_STEP_MM, grid.spacing[1])
    corners = grid.corners()[:, ::-1]
    lo, hi = corners.min(0), corners.max(0)
    canvas = _canvas(rng, frame, lo, hi, step)
    draw(Patient.admit(canvas, frame, sample_hu(rng, style.phase), rng))
    # Anatomy, first lesions and noise share one stream; what came later has its own.
    streams = (rng, np.random.default_rng([seed, 1]))
    hu, labels, lesions = _grow(canvas, streams, tumors, structures)
    if style.table:
        _table(canvas, hu, frame)
    volume = Volume(_scan(hu, canvas, grid, style, rng), grid)
    found = Volume(_labels(labels, canvas, grid), grid)
    return Phantom(volume, found, tuple(structures), _onto(lesions, canvas, grid))


def relabelled(labels: NDArray[np.uint8], annotated: Iterable[str]) -> NDArray[np.uint8]:
    """The labels as a data set that annotates only some structures has them.

    A lesion without a label of its own lies in its organ's, a vessel of the liver in the liver's;
    everything else without one is background.

    Args:
        labels: (Z, Y, X) values of ``models.labels``.
        annotated: names of the structures to keep.

    Raises:
        BadParameter: no such structure.
    """
    kept = {structure(name).name for name in annotated}
    table = np.zeros(256, np.uint8)
    for name, own in BY_NAME.items():
        seen = visible_as(name, kept)
        table[own.value] = 0 if seen is None else BY_NAME[seen].value
    return table[labels]


def _check(structures: tuple[str, ...]) -> None:
    unknown = [name for name in structures if name not in PAINTED]
    if unknown:
        raise BadParameter(
            f"Phantoms have no structure {unknown[0][:64]!r}; choose from {', '.join(PAINTED)}."
        )


def _style(style: SiteStyle | str | None, rng: np.random.Generator) -> SiteStyle:
    if isinstance(style, str) and style not in STYLES:
        raise BadParameter(f"There is no style {style[:64]!r}; choose from {', '.join(STYLES)}.")
    if isinstance(style, str):
        return STYLES[style]
    return sample_style(rng) if style is None else style


def _grid(
    style: SiteStyle,
    frame: Frame,
    rng: np.random.Generator,
    shape: tuple[int, int, int] | None,
    spacing_mm: tuple[float, float, float] | None,
) -> Geometry:
    """The scan's grid: around the patient's middle, along z somewhere about the kidneys."""
    pixel = style.field_of_view_mm / style.matrix
    extent = np.array([style.coverage_mm, style.field_of_view_mm, style.field_of_view_mm])
    spacing = np.array(spacing_mm or (style.slice_mm, pixel, pixel), dtype=float)
    if spacing.min() <= 0:
        raise BadParameter(f"Spacing {tuple(spacing.tolist())} mm must be positive.")
    if shape is None:
        shape = tuple(np.maximum(np.round(extent / spacing), 1).astype(int).tolist())
    elif spacing_mm is None:
        spacing = extent / np.asarray(shape)
    if min(shape) < 8:
        raise BadParameter(f"A phantom needs at least 8 voxels a side, not {tuple(shape)}.")
    front, back, _ = frame.reach
    centre = np.array(
        [rng.uniform(-10, 30), (front + back) / 2 + rng.uniform(-12, 12), rng.uniform(-14, 14)]
    )
    first = centre - (np.asarray(shape) - 1) / 2 * spacing
    # Array axes (z, y, x) run along LPS axes (2, 1, 0).
    return Geometry(
        shape, tuple(spacing.tolist()), tuple(first[::-1].tolist()), np.eye(3)[:, ::-1].copy()
    )


def _canvas(
    rng: np.random.Generator,
    frame: Frame,
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
    step: float,
) -> Canvas:
    """A canvas over the part of the grid that the patient can fill."""
    front, back, flank = frame.reach
    lo = np.maximum(lo - 2 * step, (-np.inf, front - 25, -flank - 25))
    hi = np.minimum(hi + 2 * step, (np.inf, back + 45, flank + 25))
    return Canvas.blank(rng, tuple(lo.tolist()), tuple(hi.tolist()), step, rng.uniform(2, 7))


def _kinds(
    rng: np.random.Generator, tumors: bool | None, possible: Sequence[Kind]
) -> Sequence[Kind]:
    """Which of the possible lesions grow: at least one, none, or each by chance."""
    if tumors is None:
        return [kind for kind in possible if rng.random() < 0.4]
    if not tumors or not possible:
        return []
    chosen = [kind for kind in possible if rng.random() < 0.5]
    return chosen or [possible[int(rng.integers(len(possible)))]]


def _grow(
    canvas: Canvas,
    streams: tuple[np.random.Generator, np.random.Generator],
    tumors: bool | None,
    structures: tuple[str, ...],
) -> tuple[F32, NDArray[np.uint8], list[Lesion]]:
    """HU, labels of the structures, and lesions (centres in voxels of the canvas)."""
    hu, labels, found = canvas.hu, canvas.labels, []
    spacing = (canvas.step_mm,) * 3
    for rng, (kinds, organs) in zip(streams, _ROUNDS, strict=True):
        before = after = relabelled(labels, organs)
        for kind in _kinds(rng, tumors, [k for k in kinds if k in structures]):
            hu, after, lesion = plant(hu, after, spacing, kind, rng)
            found += [] if lesion is None else [lesion]
        labels = np.where(after == before, labels, after)
    return hu, relabelled(labels, structures), found


def _table(canvas: Canvas, hu: F32, frame: Frame) -> None:
    """A curved table top under the back, in place."""
    back = frame.reach[1] + 6
    y = canvas.y[None, :, None] - back - 8 + (canvas.x[None, None, :] / 60) ** 2 * 2
    sheet = np.clip(1.5 - np.abs(np.abs(y - 6) - 6) / canvas.step_mm, 0, 1)
    filled = np.where(np.abs(y - 6) < 6, -940.0, AIR_HU) * (1 - sheet) + sheet * -40.0
    np.copyto(hu, filled.astype(np.float32), where=(hu < -900) & (filled > AIR_HU))


def _image(array: NDArray[np.generic], canvas: Canvas) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((canvas.step_mm,) * 3)
    image.SetOrigin([float(c[0]) for c in (canvas.x, canvas.y, canvas.z)])
    return image


def _onto_grid(image: sitk.Image, grid: Geometry, interpolator: int, default: float) -> sitk.Image:
    z, y, x = grid.shape
    sz, sy, sx = grid.spacing
    return sitk.Resample(
        image,
        (x, y, z),
        sitk.Transform(),
        interpolator,
        grid.origin,
        (sx, sy, sz),
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        default,
        image.GetPixelID(),
    )


def _scan(
    hu: F32, canvas: Canvas, grid: Geometry, style: SiteStyle, rng: np.random.Generator
) -> NDArray[np.int16]:
    """HU on the scanner's grid: partial volume along z, kernel in the slice, correlated noise."""
    image = _image(hu, canvas)
    # A slice averages over its thickness; a Gaussian of the same variance stands for the box.
    along = grid.spacing[0] / np.sqrt(12)
    across = max(style.kernel_mm, grid.spacing[1] / np.sqrt(12))
    for direction, sigma in enumerate((across, across, along)):
        if sigma > 0.25 * canvas.step_mm:
            image = sitk.RecursiveGaussian(image, sigma, direction=direction)
    image = _onto_grid(image, grid, sitk.sitkLinear, AIR_HU)
    seen: F32 = sitk.GetArrayFromImage(image)
    if style.kernel_mm < 0:
        seen += 0.8 * (seen - _blurred(seen, grid, -style.kernel_mm + 0.5))
    seen += _noise(grid, style, rng)
    return np.clip(np.rint(seen), -1024, 3071).astype(np.int16)


def _blurred(array: F32, grid: Geometry, sigma_mm: float) -> F32:
    """Blur (Z, Y, X) in the slice."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    for direction in (0, 1):
        image = sitk.RecursiveGaussian(image, sigma_mm, direction=direction)
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float32)


def _noise(grid: Geometry, style: SiteStyle, rng: np.random.Generator) -> F32:
    """Noise of the style's strength, its grain as wide as the kernel."""
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    grain = 0.5 + max(style.kernel_mm, 0) * 0.6
    if grain > 0.3 * grid.spacing[1]:
        noise = _blurred(noise, grid, grain)
    return noise * np.float32(style.noise_hu / max(float(noise.std()), 1e-6))


def _labels(labels: NDArray[np.uint8], canvas: Canvas, grid: Geometry) -> NDArray[np.uint8]:
    image = _onto_grid(_image(labels, canvas), grid, sitk.sitkLabelLinear, 0)
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.uint8)


def _onto(lesions: list[Lesion], canvas: Canvas, grid: Geometry) -> tuple[Lesion, ...]:
    """Lesions with their centres in voxels of ``grid`` instead of the canvas."""
    first = np.array([canvas.x[0], canvas.y[0], canvas.z[0]])
    moved = []
    for lesion in lesions:
        world = first + np.asarray(lesion.centre)[::-1] * canvas.step_mm
        z, y, x = grid.to_index(world).tolist()
        moved.append(replace(lesion, centre=(z, y, x)))
    return tuple(moved)
