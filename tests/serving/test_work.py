"""What an answer costs, counted and not timed: a regression fails without a stopwatch."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.read import read_volume
from imaging.volume import Volume
from imaging.writers.nifti import encode_nifti, write_nifti
from models.manifest import Finder, Manifest
from models.predict import predict
from models.store import RELEASED, Store

SPACING = (2.5, 1.25, 1.25)
# A body of 300 x 350 mm in a field of view of 400, organs in the middle third of its height.
BODY_MM, FIELD_MM = (300.0, 350.0), 400.0


class Counted:
    """A network that answers background, or an organ where it sees what is bright."""

    def __init__(self, manifest: Manifest) -> None:
        self.channels = manifest.channels
        self.calls = 0
        self.voxels = 0

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        self.calls += 1
        self.voxels += patches.size
        scores = np.zeros((1, self.channels, *patches.shape[2:]), np.float32)
        scores[0, 0] = 9
        scores[0, 1] = np.where(patches[0, 0] > 0.8, 20, 0)
        return scores


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """Of the model that ships."""
    return Store(Path("nowhere"), behind=(RELEASED,)).resolve("starter").manifest


def trunk(slices: int) -> Volume:
    """Water in air, with a bright organ a tenth as long as the scan, 80 mm wide."""
    side = round(FIELD_MM / SPACING[1])
    array = np.full((slices, side, side), -1000, np.int16)
    low = [round((FIELD_MM - mm) / 2 / SPACING[1]) for mm in BODY_MM]
    array[:, low[0] : side - low[0], low[1] : side - low[1]] = 0
    middle, reach, wide = slices // 2, max(1, slices // 20), round(40 / SPACING[1])
    across = slice(side // 2 - wide, side // 2 + wide)
    array[middle - reach : middle + reach, across, across] = 240
    return Volume(array, Geometry(array.shape, SPACING, (0.0, 0.0, 0.0), np.eye(3)[:, ::-1]))


def visited(volume: Volume, manifest: Manifest, finder: bool = False) -> Counted:
    network = Counted(manifest)
    predict(volume, manifest, network, finder=Counted(manifest) if finder else None)
    return network


def body_voxels(slices: int, manifest: Manifest) -> float:
    """Of the network's grid."""
    step = manifest.sampling.spacing_mm[0]
    assert step is not None
    mm = (slices * SPACING[0], *BODY_MM)
    return float(np.prod([side / step for side in mm]))


@pytest.mark.parametrize("slices", [100, 200, 400])
def test_the_network_visits_the_body_and_little_else(slices: int, manifest: Manifest) -> None:
    """Overlap, rounding to steps and the air around a body cost at most six tenths more."""
    network = visited(trunk(slices), manifest)
    assert network.voxels < 1.6 * body_voxels(slices, manifest)
    assert network.calls <= -(-slices // 80) * 2


def test_work_grows_no_faster_than_the_scan(manifest: Manifest) -> None:
    short, long = (visited(trunk(n), manifest).voxels for n in (150, 600))
    assert long < 1.1 * 4 * short


def test_with_a_finder_it_visits_what_is_around_the_organs(manifest: Manifest) -> None:
    found = Finder(7.5, (4, 4, 4), "0" * 64, manifest.outputs, margin_mm=40.0)
    looked = dataclasses.replace(manifest, finder=found)
    volume = trunk(400)
    network = visited(volume, looked, finder=True)
    # The organ is 100 x 80 x 80 mm; around it 40 mm, a block of the finder, and a step.
    assert network.calls == 1
    assert network.voxels < 1.2 * np.prod([(mm + 2 * 48) / 2.5 for mm in (100, 80, 80)])
    assert network.voxels < 0.3 * visited(volume, manifest).voxels


def peak_bytes(volume: Volume, manifest: Manifest) -> int:
    """Held at once beyond the CT itself."""
    tracemalloc.start()
    try:
        visited(volume, manifest)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_a_few_bytes_a_voxel_of_the_network_alone(manifest: Manifest) -> None:
    """Beyond the CT: the network's input, labels and what edges need; no float copy of the CT."""
    short, long = (trunk(n) for n in (200, 600))
    grown = peak_bytes(long, manifest) - peak_bytes(short, manifest)
    # The CT's grid is 4 times as fine in the slice as the network's: a byte a voxel for its labels.
    assert grown < 1.2 * (long.array.size - short.array.size) + 12 * (
        body_voxels(600, manifest) - body_voxels(200, manifest)
    )


def read_bytes() -> int:
    """That this process has read from files, so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="no /proc/self/io here")
def test_a_file_is_read_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (60, 128, 128), np.int16)
    geometry = trunk(2).geometry
    path = tmp_path / "ct.nii.gz"
    write_nifti(Volume(noise, Geometry(noise.shape, SPACING, geometry.origin, np.eye(3))), path)
    read_volume(path)
    before = read_bytes()
    read_volume(path)
    assert path.stat().st_size <= read_bytes() - before < 1.1 * path.stat().st_size + 2**16


def test_a_label_map_deflates_to_little() -> None:
    labels = trunk(100).with_array((trunk(100).array > 0).astype(np.uint8))
    assert len(encode_nifti(labels)) < 0.02 * labels.array.size
