"""What a DICOM series must be before its pixels are decoded, one refusal for each way it is not.

Tolerances: a slice may be ``POSITION_TOLERANCE_MM`` or ``SPACING_TOLERANCE`` of the spacing,
whichever is more, away from where an even stack has it (positions written with two decimals, or
jitter of a table), and ``IN_PLANE_TOLERANCE_MM`` off the stack's normal over its whole length
(direction cosines written with three or four decimals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.uid import UID

from imaging.dicom_headers import CT_CLASSES, Frame, Image
from imaging.errors import (
    BadGeometry,
    BadShape,
    ColourImage,
    DicomError,
    DuplicateSlices,
    GantryTilt,
    InputTooLarge,
    Localizer,
    MissingPosition,
    MissingRescale,
    MissingSlices,
    MixedSlices,
    NotCT,
    SecondaryCapture,
    UnevenSlices,
)
from imaging.geometry import Float
from imaging.limits import Limits

POSITION_TOLERANCE_MM = 0.01
SPACING_TOLERANCE = 0.01
IN_PLANE_TOLERANCE_MM = 0.1
COSINE_TOLERANCE = 1e-4
PIXEL_SPACING_TOLERANCE = 1e-4
# Larger numbers are no places, spacings or rescales of a CT and would overflow on the way.
LARGEST = 1e6
# How near (in units of the usual gap) a gap must be to a multiple to count as slices left out.
MULTIPLE_TOLERANCE = 0.05
# A gap that leaves out more slices than this is two stacks rather than a hole in one.
LARGEST_MULTIPLE = 100

SECONDARY_CAPTURE_ROOT = "1.2.840.10008.5.1.4.1.1.7"
LISTED_VALUES = 12


@dataclass(frozen=True, eq=False)
class Stack:
    """Where the slices of a series are.

    Attributes:
        order: indices of the frames, ascending along the normal.
        affine: 4x4, (z, y, x, 1) voxel indices to LPS millimetres.
    """

    order: tuple[int, ...]
    affine: Float


def kind_fault(images: Sequence[Image]) -> DicomError | None:
    """Why these images of one series are no CT slices, or None."""
    slices = [image for image in images if not image.is_localizer]
    faults = (fault for image in slices or images if (fault := _image_fault(image)))
    fault = next(faults, None)
    if fault is None and not slices:
        return Localizer(
            f"All {len(images)} images are localizers (ImageType "
            f"{'/'.join(images[0].image_type)}); send the axial series.",
            image_type=list(images[0].image_type),
        )
    return fault


def _image_fault(image: Image) -> DicomError | None:
    sop_class = UID(image.sop_class)
    if sop_class == SECONDARY_CAPTURE_ROOT or sop_class.startswith(SECONDARY_CAPTURE_ROOT + "."):
        return SecondaryCapture(
            f"The images are {sop_class.name}, pictures without Hounsfield units; send the "
            "original CT series.",
            sop_class=str(sop_class),
        )
    if image.sop_class not in CT_CLASSES or image.modality != "CT":
        return NotCT(
            f"The images are {sop_class.name} of modality {image.modality or 'unknown'}; Islet "
            "reads CT only.",
            modality=image.modality,
            sop_class=str(sop_class),
        )
    if image.samples != 1 or not image.photometric.startswith("MONOCHROME"):
        return ColourImage(
            f"The images are {image.photometric or 'of unknown colour'} with {image.samples} "
            "samples a pixel; send the greyscale CT series.",
            photometric=image.photometric,
            samples=image.samples,
        )
    return None


def check_size(images: Sequence[Image], limits: Limits) -> None:
    """Refuse too few slices and too many voxels, by what the headers say."""
    slices = sum(len(image.frames) for image in images)
    if slices < 2:
        raise BadShape(
            f"The series has {slices} slice; a volume needs at least 2. Send the whole series.",
            slices=slices,
        )
    if min(min(image.rows, image.columns) for image in images) < 1:
        raise BadShape("The images have no rows or no columns; export the series again.")
    voxels = sum(image.rows * image.columns * len(image.frames) for image in images)
    if voxels > limits.max_voxels:
        raise InputTooLarge(
            f"The series has {voxels} voxels in {slices} slices, over the limit of "
            f"{limits.max_voxels}; send fewer slices.",
            voxels=voxels,
            max_voxels=limits.max_voxels,
        )


def check_complete(frames: Sequence[Frame]) -> None:
    """Refuse slices without Hounsfield units or without a place in the patient."""
    for frame in frames:
        slope, intercept = frame.slope, frame.intercept
        if slope is None or intercept is None or _unusable((slope, intercept)):
            raise MissingRescale(
                f"RescaleSlope is {slope} and RescaleIntercept {intercept} in a slice, so its "
                "Hounsfield units are unknown; export the series with both.",
                slope=str(slope),
                intercept=str(intercept),
            )
        if slope == 0:
            raise MissingRescale("RescaleSlope is 0 in a slice; export the series again.", slope=0)
    for name, field in (
        ("ImagePositionPatient", "position"),
        ("ImageOrientationPatient", "orientation"),
        ("PixelSpacing", "pixel_spacing"),
    ):
        lacking = sum(_unusable(getattr(frame, field)) for frame in frames)
        if lacking:
            raise MissingPosition(
                f"{lacking} of {len(frames)} slices have no usable {name}, so their place is "
                "unknown; export the series with it.",
                element=name,
                slices=lacking,
            )


def _unusable(values: tuple[float, ...] | None) -> bool:
    return values is None or not np.all(np.abs(values) < LARGEST)


def check_uniform(images: Sequence[Image]) -> None:
    """Refuse slices of different size, pixel spacing or orientation."""
    sizes = sorted({(image.rows, image.columns) for image in images})
    frames = [frame for image in images for frame in image.frames]
    spacings = np.array([frame.pixel_spacing for frame in frames])
    cosines = np.array([frame.orientation for frame in frames])
    if len(sizes) > 1:
        raise _mixed("size (rows, columns)", [list(size) for size in sizes])
    references = sorted({image.frame_of_reference for image in images} - {""})
    if len(references) > 1:
        raise _mixed("frame of reference", references)
    if np.any(np.ptp(spacings, axis=0) > PIXEL_SPACING_TOLERANCE * np.abs(spacings).max()):
        raise _mixed("pixel spacing (mm)", np.unique(spacings, axis=0).tolist())
    if np.any(np.ptp(cosines, axis=0) > COSINE_TOLERANCE):
        raise _mixed("orientation", np.unique(cosines.round(6), axis=0).tolist())


def _mixed(what: str, values: Sequence[object]) -> MixedSlices:
    return MixedSlices(
        f"The slices of the series differ in {what}: {_first_of([str(v) for v in values])}; send "
        "slices of one kind.",
        differs=what,
        values=list(values[:LISTED_VALUES]),
    )


def stack_of(frames: Sequence[Frame]) -> Stack:
    """Order the slices along their normal and check that they stand evenly on it.

    Args:
        frames: at least two, complete and uniform.

    Raises:
        BadGeometry, GantryTilt, DuplicateSlices, MissingSlices, UnevenSlices.
    """
    rows, columns, spacing = _plane(frames[0])
    normal = np.cross(rows, columns)
    normal /= np.linalg.norm(normal)
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    along = positions @ normal
    # First, as slices stacked across their normal share a place on it and would seem duplicates.
    _check_tilt(positions, normal)
    _check_duplicates(along)
    first, step = _even(along)
    affine = np.eye(4)
    affine[:3, 0] = normal * step
    affine[:3, 1] = columns * spacing[0]
    affine[:3, 2] = rows * spacing[1]
    affine[:3, 3] = positions[0] + normal * (first - along[0])
    return Stack(tuple(order.tolist()), affine)


def usual_gap(frames: Sequence[Frame]) -> float | None:
    """Median mm between neighbouring slices, or None where their places are not known."""
    if len(frames) < 2 or any(_unusable(f.position) or _unusable(f.orientation) for f in frames):
        return None
    cosines = np.array(frames[0].orientation)
    normal = np.cross(cosines[:3], cosines[3:])
    along = np.sort(np.array([frame.position for frame in frames]) @ normal)
    return float(np.median(np.diff(along)))


def pixel_spacing(frames: Sequence[Frame]) -> list[float]:
    """The first frame's mm between rows and between columns; empty where they are not usable."""
    first = frames[0].pixel_spacing if frames else None
    return [] if first is None or _unusable(first) else list(first)


def _plane(frame: Frame) -> tuple[Float, Float, Float]:
    """Unit vectors along rows and along columns, and mm between rows and between columns."""
    cosines = np.array(frame.orientation, dtype=np.float64)
    spacing = np.array(frame.pixel_spacing, dtype=np.float64)
    rows, columns = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(rows), np.linalg.norm(columns)])
    if np.abs(lengths - 1).max() > 0.01 or np.linalg.norm(np.cross(rows, columns)) < 0.5:
        raise BadGeometry(
            f"ImageOrientationPatient {cosines.tolist()} is no pair of perpendicular unit "
            "vectors; export the series again.",
            orientation=cosines.tolist(),
        )
    if spacing.min() <= 0:
        raise BadGeometry(
            f"PixelSpacing {spacing.tolist()} must be positive; export the series again.",
            pixel_spacing=spacing.tolist(),
        )
    return rows / lengths[0], columns / lengths[1], spacing


def _check_duplicates(along: Float) -> None:
    twice = np.unique(along[1:][np.diff(along) <= POSITION_TOLERANCE_MM].round(3))
    if twice.size:
        raise DuplicateSlices(
            f"{twice.size} positions along the slice axis have more than one slice: "
            f"{_millimetres(twice)} mm. Send one slice for each position (one phase, one "
            "reconstruction).",
            positions=twice.tolist(),
        )


def _check_tilt(positions: Float, normal: Float) -> None:
    steps = positions - positions[0]
    depth = steps @ normal
    off = np.linalg.norm(steps - np.outer(depth, normal), axis=1)
    worst = int(np.argmax(off))
    if off[worst] > IN_PLANE_TOLERANCE_MM:
        angle = float(np.degrees(np.arctan2(off[worst], depth[worst])))
        raise GantryTilt(
            f"The slices are stacked {angle:.2f} degrees off their normal (up to "
            f"{off[worst]:.2f} mm), as with a tilted gantry; resample the series to an upright "
            "grid first.",
            angle_degrees=round(angle, 3),
            offset_mm=round(float(off[worst]), 3),
        )


def _even(along: Float) -> tuple[float, float]:
    """First position and step in mm of the even stack that fits sorted positions best."""
    index = np.arange(len(along), dtype=np.float64)
    centre = index - index.mean()
    step = float(centre @ (along - along.mean()) / (centre @ centre))
    first = float(along.mean() - step * index.mean())
    off = np.abs(along - (first + step * index)).max()
    if off <= max(POSITION_TOLERANCE_MM, SPACING_TOLERANCE * step):
        return first, step
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    multiples = np.rint(gaps / usual)
    whole = np.all(np.abs(gaps / usual - multiples) <= MULTIPLE_TOLERANCE)
    if whole and 1 < multiples.max() <= LARGEST_MULTIPLE:
        raise _missing(along, multiples, usual)
    raise _uneven(along, gaps, usual)


def _missing(along: Float, multiples: Float, usual: float) -> MissingSlices:
    absent = np.concatenate(
        [
            np.linspace(along[i], along[i + 1], int(n) + 1)[1:-1]
            for i, n in enumerate(multiples)
            if n > 1
        ]
    ).round(3)
    return MissingSlices(
        f"{absent.size} slices are missing at {_millimetres(absent)} mm along the slice axis "
        f"(slices are {usual:.3f} mm apart elsewhere); send them too.",
        positions=absent.tolist(),
        spacing=round(usual, 4),
    )


def _uneven(along: Float, gaps: Float, usual: float) -> UnevenSlices:
    odd = np.abs(gaps - usual) > max(POSITION_TOLERANCE_MM, SPACING_TOLERANCE * usual)
    # A drift too slow to show in any one gap is shown by all of them.
    shown = odd if odd.any() else np.ones_like(odd)
    places, widths = along[:-1][shown].round(3), gaps[shown].round(3)
    return UnevenSlices(
        f"The slices are unevenly spaced: mostly {usual:.3f} mm, but after "
        f"{_millimetres(places)} mm along the slice axis the gaps are {_millimetres(widths)} mm. "
        "Send an evenly spaced reconstruction.",
        positions=places.tolist(),
        gaps=widths.tolist(),
        spacing=round(usual, 4),
    )


def _millimetres(values: Float) -> str:
    return _first_of([f"{value:g}" for value in values])


def _first_of(words: list[str]) -> str:
    more = len(words) - LISTED_VALUES
    shown = ", ".join(words[:LISTED_VALUES])
    return f"{shown} and {more} more" if more > 0 else shown
