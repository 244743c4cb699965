"""KiTS19, KiTS21 and KiTS23: a folder for each case, kidneys with tumors (and cysts).

The three share patients: cases 0 to 209 are in all of them, so a model needs one of them only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import mapped_cases
from training.datasets.stored import Mask, divided, mask_of, stored_map
from training.phantoms.scan import Phantom

# KiTS19 has no label for cysts; they lie within its kidneys.
NAMES_2019: Mapping[int, str] = {1: "kidney", 2: "tumor"}
NAMES: Mapping[int, str] = {**NAMES_2019, 3: "cyst"}
# Where the repositories that download the sets put them.
INSIDE = ("data", "dataset", "kits21/data")
_LICENCE = "CC BY-NC-SA 4.0"
_IMAGE, _LABEL, _MAJORITY = "imaging.nii.gz", "segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz"
_FIRST_NEW_2023 = 400


def marks_2019(folder: Path) -> bool:
    """``case_00000/segmentation.nii.gz`` without what KiTS23 adds."""
    return any(folder.glob(f"case_?????/{_LABEL}")) and not marks_2023(folder)


def marks_2021(folder: Path) -> bool:
    """``case_00000/aggregated_MAJ_seg.nii.gz``."""
    return any(folder.glob(f"case_?????/{_MAJORITY}"))


def marks_2023(folder: Path) -> bool:
    """``case_00000/segmentation.nii.gz`` and KiTS23's own: ``instances``, its list, new cases."""
    labelled = sorted(folder.glob(f"case_?????/{_LABEL}"))
    newest = max((int(p.parent.name.removeprefix("case_")) for p in labelled), default=0)
    own = any(folder.glob("case_?????/instances")) or (folder / "kits23.json").is_file()
    return bool(labelled) and (own or newest >= _FIRST_NEW_2023)


def cases_2019(folder: Path) -> list[Case]:
    """KiTS19 (Heller et al., arXiv:1904.00445); cases without a segmentation are left out.

    Raises:
        DataError: a segmentation without its CT.
    """
    source = {
        "name": "KiTS19",
        "licence": _LICENCE,
        "labels": "manual, by students",
    }
    return mapped_cases(_pairs(folder, _LABEL), NAMES_2019, source)


def cases_2021(folder: Path) -> list[Case]:
    """KiTS21 (Heller et al., arXiv:2307.01984) with the majority of three annotators a region.

    Raises:
        DataError: a segmentation without its CT.
    """
    source = {"name": "KiTS21", "licence": _LICENCE, "labels": "manual, majority of annotators"}
    return mapped_cases(_pairs(folder, _MAJORITY), NAMES, source)


def cases_2023(folder: Path) -> list[Case]:
    """KiTS23: KiTS21 once more and later cases.

    Raises:
        DataError: a segmentation without its CT.
    """
    source = {"name": "KiTS23", "licence": _LICENCE, "labels": "manual"}
    return mapped_cases(_pairs(folder, _LABEL), NAMES, source)


def write_2019(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms as KiTS19."""
    for home, phantom in _homes(out, phantoms):
        _write(phantom.labels, NAMES_2019, home / _LABEL)


def write_2021(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms as KiTS21, each instance drawn by three annotators who differ a little.

    The first draws exactly, the second a voxel outside, the third a voxel inside where something
    is left, so that the majority is exact. Kidneys are instances by side, lesions by connection.
    """
    for home, phantom in _homes(out, phantoms):
        _write(phantom.labels, NAMES, home / _MAJORITY)
        for name, mask in _instances(phantom.labels):
            for number, drawn in enumerate(_annotations(mask), 1):
                path = home / "segmentations" / f"{name}_annotation-{number}.nii.gz"
                _store(phantom.labels.with_array(drawn.astype(np.uint8)), path)


def write_2023(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms as KiTS23, with one annotation an instance."""
    for home, phantom in _homes(out, phantoms):
        _write(phantom.labels, NAMES, home / _LABEL)
        for name, mask in _instances(phantom.labels):
            path = home / "instances" / f"{name}_annotation-1.nii.gz"
            _store(phantom.labels.with_array(mask.astype(np.uint8)), path)


def _pairs(folder: Path, label: str) -> Iterator[tuple[str, Path, Path]]:
    for path in sorted(folder.glob(f"case_?????/{label}")):
        yield path.parent.name, path.parent / _IMAGE, path


def _homes(out: Path, phantoms: Iterable[Phantom]) -> Iterator[tuple[Path, Phantom]]:
    for index, phantom in enumerate(phantoms):
        home = out / f"case_{index:05d}"
        _store(phantom.volume, home / _IMAGE)
        yield home, phantom


def _write(labels: Volume, names: Mapping[int, str], path: Path) -> None:
    _store(stored_map(labels, names), path)


def _store(volume: Volume, path: Path) -> None:
    """Write with the slices along the file's first axis, as KiTS has them."""
    axes, flips = (2, 1, 0), (False, False, False)
    geometry = volume.geometry.transposed(axes, flips)
    write_nifti(Volume(volume.array.transpose(axes), geometry), path)


def _instances(labels: Volume) -> Iterator[tuple[str, Mask]]:
    """KiTS's name and the mask of each kidney, tumor and cyst that is there."""
    sides = divided(mask_of(labels, "kidney"), labels.geometry, ["right", "left"])
    found = {"kidney": [side for side in sides if side.any()]}
    for kind in ("tumor", "cyst"):
        parts, count = ndimage.label(mask_of(labels, f"kidney_{kind}"))
        found[kind] = [parts == i for i in range(1, count + 1)]
    for kind, masks in found.items():
        for number, mask in enumerate(masks, 1):
            yield f"{kind}_instance-{number}", mask


def _annotations(mask: Mask) -> list[Mask]:
    within = ndimage.binary_erosion(mask)
    return [mask, ndimage.binary_dilation(mask), within if within.any() else mask]
