"""A CT or a label map: voxels together with where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadShape
from imaging.geometry import Geometry, canonical_axes

if TYPE_CHECKING:
    from imaging.source import DicomSource


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid.

    Attributes:
        array: (Z, Y, X); Hounsfield units as int16 (float32 where the source is not integral), or
            a label map as uint8.
        geometry: the grid; its shape is the array's.
        warnings: sentences on what reading had to correct or assume; they reach the report.
        source: the DICOM slices behind the first axis, where they were asked for.
    """

    array: NDArray[Any]
    geometry: Geometry
    warnings: tuple[str, ...] = ()
    source: DicomSource | None = None

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise BadShape(
                f"The array is {self.array.shape} but its grid is {self.geometry.shape}; "
                "give both as (Z, Y, X)."
            )

    def with_array(self, array: NDArray[Any]) -> Volume:
        """The same grid with other voxels (Z, Y, X)."""
        return Volume(array, self.geometry, self.warnings, self.source)


def to_canonical(volume: Volume) -> Volume:
    """The same voxels with axes transposed and flipped to run closest to (S, P, L).

    Nothing is interpolated or copied: two files that store one CT in different axis orders give
    equal arrays here. The source is let go: its slices need not lie along the new first axis.
    """
    axes, flips = canonical_axes(volume.geometry.direction)
    array = volume.array.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return Volume(array, volume.geometry.transposed(axes, flips), volume.warnings)


def from_canonical(canonical: Volume, geometry: Geometry) -> Volume:
    """Undo :func:`to_canonical` for voxels that belong on ``geometry``.

    Args:
        canonical: voxels on ``to_canonical``'s grid of ``geometry``.
        geometry: the grid of the volume that was made canonical.
    """
    axes, flips = canonical_axes(geometry.direction)
    array = canonical.array[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return Volume(array.transpose(np.argsort(axes)), geometry, canonical.warnings)
