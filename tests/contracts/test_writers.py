"""Every entry of ``imaging.writers.WRITERS``, read back by a library that did not write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers import WRITERS
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, rotation, stored_as

SUFFIX = {"nifti": ".nii.gz"}
GRIDS = {
    "axial": CANONICAL,
    "tilted": rotation(12, -7, 3) @ CANONICAL,
    "oblique": rotation(40, 25, -60) @ CANONICAL,
}


def label_map(direction: np.ndarray) -> Volume:
    labels = np.random.default_rng(0).integers(0, 12, (5, 6, 7)).astype(np.uint8)
    return Volume(labels, Geometry((5, 6, 7), (3.0, 0.7, 0.8), (-120.5, 33.25, 870.0), direction))


def assert_read_back(volume: Volume, path: Path) -> None:
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    for index in np.ndindex(2, 2, 2):
        corner = [int(i * (n - 1)) for i, n in zip(index, volume.geometry.shape, strict=True)]
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(corner[::-1]),
            volume.geometry.to_world(corner),
            atol=1e-3,
        )


def test_every_writer_has_a_suffix_here() -> None:
    assert set(SUFFIX) == set(WRITERS)


@pytest.mark.parametrize("direction", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name", WRITERS)
def test_voxels_and_places_survive(tmp_path: Path, name: str, direction: np.ndarray) -> None:
    path = tmp_path / f"out{SUFFIX[name]}"
    WRITERS[name](label_map(direction), path)
    assert_read_back(label_map(direction), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", WRITERS)
def test_every_storage_order_survives(tmp_path: Path, name: str) -> None:
    for order in STORAGE_ORDERS:
        volume = stored_as(label_map(GRIDS["tilted"]), order)
        path = tmp_path / f"out{SUFFIX[name]}"
        WRITERS[name](volume, path)
        assert_read_back(volume, path)


@pytest.mark.parametrize("name", WRITERS)
def test_equal_label_maps_give_equal_files(tmp_path: Path, name: str) -> None:
    files = [tmp_path / f"{i}{SUFFIX[name]}" for i in range(2)]
    for path in files:
        WRITERS[name](label_map(CANONICAL), path)
    assert files[0].read_bytes() == files[1].read_bytes()
