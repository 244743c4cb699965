"""Real lesions without their images: form, size, and where each sat in its organ.

A library is a folder of label maps as KiTS23 and PANORAMA publish them (any grid; 1.5 mm here).
Each connected lesion becomes a shape. Positions are told relative to the organ, so that a shape
can be placed in another patient's.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.errors import BadParameter, DataError
from imaging.files import whole_file
from imaging.read import read_volume
from imaging.volume import Volume, to_canonical
from training.lesions.kinds import Kind, sphere_mm
from training.planting.hull import Hull, outwards

Part = Literal["train", "held-out"]
PARTS: tuple[Part, ...] = get_args(Part)
# One patient of five is for evaluation alone.
_HELD_OUT_OF = 5
# Raise it when what is kept of a shape changes: older caches are made anew then.
_FORMAT = 1
# A shape's numbers in a row of the cache.
_NUMBERS = 14
# Smaller components are specks of the annotation (ml: a ball of 4 mm), smaller organs are crumbs.
_SMALLEST_ML = 0.034
_SMALLEST_ORGAN_ML = 5.0


@dataclass(frozen=True)
class Source:
    """One set of label maps.

    Attributes:
        name: of the data set, with its licence for whoever passes on what is made of it.
        licence: as published.
        lesions: label value to kind.
        organ: label values of the organ without its lesions.
        paired: whether the organ is one of two, so that positions are mirrored.
    """

    name: str
    licence: str
    lesions: tuple[tuple[int, Kind], ...]
    organ: tuple[int, ...]
    paired: bool


# By the name of their folder. KiTS23: 1 kidney, 2 tumor, 3 cyst. PANORAMA: 1 cancer, 2 veins,
# 3 arteries, 4 pancreas, 5 pancreatic duct, 6 bile duct.
SOURCES: dict[str, Source] = {
    "kits23": Source(
        "KiTS23", "CC BY-NC-SA", ((2, "kidney_tumor"), (3, "kidney_cyst")), (1,), True
    ),
    "panorama": Source("PANORAMA", "CC BY-NC 4.0", ((1, "pancreas_tumor"),), (4, 5), False),
}


@dataclass(frozen=True, eq=False)
class Shape:
    """One real lesion.

    Attributes:
        name: folder, case, kind and number, such as ``kits23/case_00002/kidney_tumor-1``.
        kind: what it is.
        packed: its mask's bits, see :attr:`mask`.
        size: (Z, Y, X) voxels of the mask.
        spacing: (z, y, x) mm.
        volume_ml: of the mask.
        diameter_mm: of the sphere of that volume.
        place: its centre in the organ's box, -1 to 1 from side to side along (S, P, L); for a
            paired organ the last one runs from the hilum outwards.
        depth: signed distance of its centre from the organ's convex hull (negative within), over
            half its diameter.
        exophytic: the share of its volume outside of that hull, 0 to 1.
        mirrored: whether the hilum was on its left, that is, whether it sat in a right organ.
    """

    name: str
    kind: Kind
    packed: NDArray[np.uint8]
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    volume_ml: float
    place: tuple[float, float, float]
    depth: float
    exophytic: float
    mirrored: bool

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(Z, Y, X) in (S, P, L) order, cropped to the lesion."""
        bits = np.unpackbits(self.packed, count=int(np.prod(self.size)))
        return bits.reshape(self.size).astype(np.bool_)

    @property
    def diameter_mm(self) -> float:
        """Of the sphere that has its volume."""
        return sphere_mm(self.volume_ml)

    @property
    def case(self) -> str:
        """The case it is from, with its folder."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, eq=False)
class Shapes:
    """A library of real lesions.

    Attributes:
        part: ``train`` or ``held-out``; no patient is in both.
        shapes: sorted by name.
    """

    part: Part
    shapes: tuple[Shape, ...]

    @classmethod
    def open(cls, folder: Path, part: Part = "train", cache: Path | None = None) -> Shapes:
        """Read a library.

        Args:
            folder: with ``kits23/``, ``panorama/`` or both, of .nii.gz files.
            part: which patients: some 80 % are for training, the others for evaluation.
            cache: an .npz file that is written at the first opening and read at later ones; made
                anew where the folder's files changed.

        Raises:
            BadParameter: no such part.
            DataError: a folder without shapes, or a file that is none of them.
        """
        if part not in PARTS:
            raise BadParameter(f"part must be one of {', '.join(PARTS)}, not {str(part)[:64]!r}.")
        files = _files(folder)
        if not files:
            raise DataError(
                f"{folder} holds no shapes; name a folder with {' or '.join(SOURCES)} of .nii.gz "
                "label maps."
            )
        key = _key(files)
        found = _cached(cache, key)
        if found is None:
            found = tuple(shape for path in files for shape in read_shapes(path))
            if cache is not None:
                _keep(cache, key, found)
        return cls(part, tuple(s for s in found if part_of(s.case) == part))

    def of(self, kind: Kind, diameter_mm: tuple[float, float] | None = None) -> tuple[Shape, ...]:
        """The shapes of a kind, of diameters within a range where one is given."""
        low, high = diameter_mm or (0.0, np.inf)
        return tuple(s for s in self.shapes if s.kind == kind and low <= s.diameter_mm <= high)


def part_of(case: str) -> Part:
    """The part that a case (``folder/case``) belongs to, the same for ever.

    PANORAMA's names are patient and study: a patient's studies stay together.
    """
    folder, _, name = case.partition("/")
    patient = name.partition("_")[0] if folder == "panorama" else name
    return PARTS[zlib.crc32(f"{folder}/{patient}".encode()) % _HELD_OUT_OF == 0]


def read_shapes(path: Path) -> Iterator[Shape]:
    """The lesions of one label map, whose folder names its source.

    Raises:
        DataError: the file holds no label map.
    """
    source = SOURCES[path.parent.name]
    volume = to_canonical(read_volume(path))
    labels = volume.array
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path.name} holds {labels.dtype}, no label map.", file=path.name)
    whole = np.isin(labels, (*source.organ, *(value for value, _ in source.lesions)))
    organs = _parts(whole) if source.paired else whole.astype(np.uint8)
    case = f"{path.parent.name}/{path.name.removesuffix('.nii.gz')}"
    for value, kind in source.lesions:
        for number, lesion in enumerate(_lesions(labels == value, volume), 1):
            shape = _shape(f"{case}/{kind}-{number}", kind, lesion, volume, organs, source)
            if shape is not None:
                yield shape


def _files(folder: Path) -> list[Path]:
    return sorted(path for name in SOURCES for path in (folder / name).glob("*.nii.gz"))


def _parts(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Connected parts (Z, Y, X), numbered from 1 by falling size."""
    image = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    return np.asarray(sitk.GetArrayFromImage(sitk.RelabelComponent(image)))


def _lesions(mask: NDArray[np.bool_], volume: Volume) -> Iterator[NDArray[np.int64]]:
    """The voxels (n, 3) of each lesion that is no speck."""
    if not mask.any():
        return
    parts = _parts(mask)
    for number in range(1, int(parts.max()) + 1):
        voxels = np.argwhere(parts == number)
        if len(voxels) * volume.geometry.voxel_ml < _SMALLEST_ML:
            return
        yield voxels


def _shape(
    name: str,
    kind: Kind,
    lesion: NDArray[np.int64],
    volume: Volume,
    organs: NDArray[Any],
    source: Source,
) -> Shape | None:
    """What is kept of one lesion; ``None`` where its organ is not there to speak of."""
    spacing = np.asarray(volume.geometry.spacing)
    own = organs == organs[tuple(lesion[0])]
    # The hull of a kidney is that of what is left of it: a tumor that bulges out of it is outside.
    # A pancreas is bent and often replaced by its cancer: there the place is told by both.
    healthy = np.isin(volume.array, source.organ)
    bare = own & healthy
    if np.count_nonzero(bare) * volume.geometry.voxel_ml < _SMALLEST_ORGAN_ML:
        return None
    hull = Hull.around(bare if source.paired else own, volume.geometry.spacing)
    points = lesion * spacing
    centre, ml = points.mean(0), len(lesion) * volume.geometry.voxel_ml
    beyond = hull.distance(points[:: max(1, len(points) // 2000)])
    mirrored = source.paired and outwards(bare, healthy, volume.geometry.spacing, hull) < 0
    z, y, x = hull.relative(centre).tolist()
    low = lesion.min(0)
    mask = np.zeros(lesion.max(0) - low + 1, np.bool_)
    mask[tuple((lesion - low).T)] = True
    return Shape(
        name,
        kind,
        np.packbits(mask),
        (mask.shape[0], mask.shape[1], mask.shape[2]),
        volume.geometry.spacing,
        ml,
        (z, y, -x if mirrored else x),
        float(hull.distance(centre[None])[0] / (0.5 * sphere_mm(ml))),
        float((beyond > 0).mean()),
        mirrored,
    )


def _key(files: Sequence[Path]) -> str:
    """What tells one state of the files from another."""
    told = [f"{p.parent.name}/{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join([str(_FORMAT), *told]).encode()).hexdigest()


def _keep(cache: Path, key: str, shapes: Sequence[Shape]) -> None:
    numbers = [
        (
            *s.size,
            *s.spacing,
            s.volume_ml,
            *s.place,
            s.depth,
            s.exophytic,
            s.mirrored,
            len(s.packed),
        )
        for s in shapes
    ]
    with whole_file(cache) as file:
        np.savez(
            file,
            key=np.array(key),
            names=np.array([s.name for s in shapes], dtype=np.str_),
            kinds=np.array([s.kind for s in shapes], dtype=np.str_),
            numbers=np.array(numbers, dtype=np.float64).reshape(len(shapes), _NUMBERS),
            bits=np.concatenate([np.zeros(0, np.uint8), *(s.packed for s in shapes)]),
        )


def _cached(cache: Path | None, key: str) -> tuple[Shape, ...] | None:
    """What a cache holds, where it is there and of these files."""
    if cache is None or not cache.is_file():
        return None
    try:
        with np.load(cache) as kept:
            if str(kept["key"]) != key:
                return None
            names, kinds = kept["names"].tolist(), kept["kinds"].tolist()
            numbers, bits = kept["numbers"].tolist(), kept["bits"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{cache.name} is no cache of shapes ({error}); remove it.") from error
    found, start = [], 0
    for name, kind, row in zip(names, kinds, numbers, strict=True):
        end = start + int(row[-1])
        size = (int(row[0]), int(row[1]), int(row[2]))
        found.append(
            Shape(
                name,
                kind,
                bits[start:end],
                size,
                tuple(row[3:6]),
                row[6],
                tuple(row[7:10]),
                row[10],
                row[11],
                bool(row[12]),
            )
        )
        start = end
    return tuple(found)
