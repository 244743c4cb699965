"""DICOM outputs of a real CT: they conform, and programs of others read back what was written."""

from __future__ import annotations

import os
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from imaging.read import read_volume
from imaging.volume import Volume, from_canonical, to_canonical
from imaging.writers import WRITERS
from imaging.writers.dicom_seg import encode_seg
from imaging.writers.report_sr import encode_sr
from imaging.writers.rtstruct import encode_rtstruct
from imaging.writers.segments import Code, Segment
from tests.imaging.dicom_outputs import (
    ALGORITHM,
    ORGAN,
    errors_of_dciodvfy,
    inside_by_crossings,
    read_seg_with_dcmqi,
    read_sr,
)

DATA = Path(os.environ.get("ISLET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
COAD = DATA / "ct" / "tcga_coad"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not COAD.is_dir(), reason=f"no real CT at {COAD}"),
]
SEGMENTS = tuple(
    Segment(name, name.capitalize(), (value,), value, Code(code, "SCT", meaning), ORGAN, None, rgb)
    for name, value, code, meaning, rgb in (
        ("pancreas", 1, "15776009", "Pancreas", (249, 180, 111)),
        ("kidney", 3, "64033007", "Kidney", (88, 148, 224)),
        ("liver", 6, "10200004", "Liver", (164, 96, 66)),
        ("stomach", 9, "69695003", "Stomach", (216, 132, 105)),
    )
)


@pytest.fixture(scope="module")
def labels() -> Volume:
    ct = read_volume(COAD / "dicom", headers=True)
    found = from_canonical(to_canonical(read_volume(COAD / "label.nii.gz")), ct.geometry)
    assert found.array.shape == ct.array.shape
    return Volume(np.ascontiguousarray(found.array, np.uint8), ct.geometry, (), ct.source)


@pytest.mark.parametrize("name", [n for n, writer in WRITERS.items() if writer.of_dicom])
def test_it_conforms(labels: Volume, tmp_path: Path, name: str) -> None:
    path = tmp_path / "out.dcm"
    path.write_bytes(WRITERS[name].encode(labels, SEGMENTS, ALGORITHM))
    assert errors_of_dciodvfy(path) == []


def test_centroids_in_the_patient_are_those_of_nifti(labels: Volume, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(encode_seg(labels, SEGMENTS, ALGORITHM))
    (tmp_path / "labels.nii.gz").write_bytes(WRITERS["nifti"].encode(labels, SEGMENTS, ALGORITHM))
    nifti = read_volume(tmp_path / "labels.nii.gz")
    for label, places in read_seg_with_dcmqi(path).items():
        value = next(s.value for s in SEGMENTS if s.label == label)
        index = np.argwhere(nifti.array == value)
        assert len(places) == len(index) > 1000
        world = nifti.geometry.to_world(index).mean(axis=0)
        np.testing.assert_allclose(places.mean(axis=0), world, atol=0.01)


def test_contours_fill_the_mask(labels: Volume) -> None:
    made = dcmread(BytesIO(encode_rtstruct(labels, SEGMENTS, ALGORITHM)))
    assert labels.source is not None
    uids = [labels.source.datasets[s.dataset].SOPInstanceUID for s in labels.source.slices]
    for region, segment in zip(made.ROIContourSequence, SEGMENTS, strict=True):
        filled = np.zeros(labels.array.shape, bool)
        for contour in region.ContourSequence:
            place = uids.index(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            index = labels.geometry.to_index(points)
            assert np.abs(index[:, 0] - place).max() < 1e-3
            filled[place] ^= inside_by_crossings(index[:, 1:], labels.array.shape[1:])
        np.testing.assert_array_equal(filled, labels.array == segment.value)


def test_the_report_is_read_by_dcmtk(labels: Volume, tmp_path: Path) -> None:
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump (Debian: dcmtk) is not installed")
    seg = encode_seg(labels, SEGMENTS, ALGORITHM)
    data = encode_sr(labels, SEGMENTS, ALGORITHM, seg)
    (tmp_path / "sr.dcm").write_bytes(data)
    done = subprocess.run(
        ["dsrdump", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True
    )
    assert "Comprehensive SR Document" in done.stdout
    for segment in SEGMENTS:
        millilitres = (labels.array == segment.value).sum() * labels.geometry.voxel_ml
        assert read_sr(data)[segment.name] == pytest.approx(millilitres, abs=1e-3)
        assert f'"{read_sr(data)[segment.name]}" (mL,UCUM' in done.stdout
