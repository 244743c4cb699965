"""The pipeline with tiny real models."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from imaging.errors import (
    BadParameter,
    Cancelled,
    ModelNotFound,
    NotDicom,
)
from imaging.read import read_volume
from models.labels import values
from models.store import Store
from serving.engines import Engines
from serving.options import Options
from serving.segment import files, segment
from tests.imaging.dicom_files import write_series
from tests.serving.tiny_model import CENTRES, boxes_ct, publish


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    """A DICOM series with a pancreas, a lesion in it, and a kidney."""
    stored = np.full((8, 24, 32), CENTRES["background"], np.int16)
    stored[1:6, 4:14, 4:16] = CENTRES["pancreas"]
    stored[2:4, 6:10, 6:10] = CENTRES["pancreas_tumor"]
    stored[3:8, 14:22, 18:30] = CENTRES["kidney"]
    folder = tmp_path / "series"
    write_series(folder, (stored + 1024).astype(np.uint16))
    return folder


@pytest.mark.parametrize("model", ["starter", "flat"])
def test_labels_are_the_known_ones_for_3d_and_2d_models(store: Store, ct: Path, model: str) -> None:
    result = segment(ct, Options(model), Engines(store))
    volume, truth = boxes_ct()
    assert result.labels.array.dtype == np.uint8
    np.testing.assert_array_equal(result.labels.array, truth)
    assert result.labels.geometry.close_to(volume.geometry)


def test_files_are_label_map_masks_and_report_on_the_inputs_grid(
    store: Store, ct: Path, tmp_path: Path
) -> None:
    masks = ("tumor", "pancreas", "kidney")
    made = dict(files(segment(ct, Options(masks=masks), Engines(store))))
    _, truth = boxes_ct()
    names = ["labels.nii.gz", *(f"{m}.nii.gz" for m in masks), "preview.png", "report.json"]
    assert list(made) == names
    for mask in masks:
        path = tmp_path / f"{mask}.nii.gz"
        path.write_bytes(made[path.name])
        back = read_volume(path)
        np.testing.assert_array_equal(back.array, np.isin(truth, values(mask)))
        assert back.geometry.close_to(read_volume(ct).geometry)


def test_the_report_says_which_model_and_what_was_not_looked_for(store: Store, ct: Path) -> None:
    made = dict(files(segment(ct, Options(), Engines(store))))
    report = json.loads(made["report.json"])
    model = store.resolve("starter")
    assert report["model"]["reference"] == "starter@1"
    assert report["model"]["sha256"] == model.sha256
    assert report["masks"]["tumor"]["structures"] == ["pancreas_tumor"]
    assert report["masks"]["tumor"]["not_looked_for"] == ["kidney_tumor"]
    assert report["masks"]["pancreas"]["voxels"] == 8 * 10 * 12
    assert report["masks"]["kidney"]["touches_edge"] == ["inferior", "left"]
    assert report["input"] == {
        "format": "nifti",
        "bytes": ct.stat().st_size,
        "axes": "zyx",
        "shape": [20, 40, 48],
        "spacing_mm": [2.5, 0.8, 0.9],
        "orientation": "LPS",
    }
    assert report["outputs"] == ["nifti"]
    steps = ["load", "read", "preprocess", "network", "postprocess", "report", "write"]
    assert list(report["seconds"]) == [*steps, "total"]


def test_the_same_ct_gives_the_same_bytes(store: Store, ct: Path) -> None:
    first, second = (dict(files(segment(ct, Options(), Engines(store)))) for _ in range(2))
    del first["report.json"], second["report.json"]
    assert first == second


def test_a_mask_the_model_cannot_find_is_refused_before_the_ct_is_read(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(BadParameter, match=r"liver.*pancreas, pancreas_tumor, kidney"):
        segment(tmp_path / "absent", Options(masks=("liver",)), Engines(store))


def test_a_request_that_names_no_mask_gets_what_the_model_can_find(
    store: Store, ct: Path, tmp_path: Path
) -> None:
    publish(store, tmp_path, "organs", centres={"background": -100.0, "kidney": 60.0})
    publish(store, tmp_path, "other", centres={"background": -100.0, "liver": 60.0})
    engines = Engines(store)
    result = segment(ct, Options("organs"), engines)
    assert result.masks == ("kidney",)
    assert [w.split(" was ")[0] for w in result.report["warnings"]] == ["pancreas", "tumor"]
    assert segment(ct, Options("other"), engines).masks == ("liver",)


def test_numbers_alone_come_with_a_picture_and_no_masks(store: Store, ct: Path) -> None:
    made = dict(files(segment(ct, Options(outputs=("report",)), Engines(store))))
    assert list(made) == ["preview.png", "report.json"]
    assert json.loads(made["report.json"])["masks"]["pancreas"]["voxels"] == 8 * 10 * 12


def test_the_ct_comes_back_as_it_was_read(store: Store, dicom: Path, tmp_path: Path) -> None:
    made = dict(files(segment(dicom, Options(outputs=("ct",)), Engines(store))))
    assert list(made) == ["ct.nii.gz", "preview.png", "report.json"]
    path = tmp_path / "back.nii.gz"
    path.write_bytes(made["ct.nii.gz"])
    read, back = read_volume(dicom), read_volume(path)
    np.testing.assert_array_equal(back.array, read.array)
    assert back.geometry.close_to(read.geometry)


def test_dicom_outputs_of_a_nifti_are_refused_before_the_network_runs(
    store: Store, ct: Path
) -> None:
    seen: list[str] = []
    with pytest.raises(NotDicom, match="seg refers to the DICOM images"):
        segment(
            ct,
            Options(outputs=("nifti", "seg")),
            Engines(store),
            progress=lambda step, part: seen.append(step),
        )
    assert seen == ["load", "read"]


def test_every_output_has_its_file_in_a_fixed_order(store: Store, dicom: Path) -> None:
    asked = ("report", "sr", "rtstruct", "seg-labelmap", "seg-full", "seg", "ct", "nifti")
    options = Options(masks=("kidney",), outputs=asked)
    made = dict(files(segment(dicom, options, Engines(store))))
    assert list(made) == [
        "labels.nii.gz",
        "kidney.nii.gz",
        "ct.nii.gz",
        "segmentation.dcm",
        "segmentation-full.dcm",
        "segmentation-labelmap.dcm",
        "structures.dcm",
        "report.dcm",
        "preview.png",
        "report.json",
    ]
    for name, data in made.items():
        if name.endswith(".dcm"):
            assert data[128:132] == b"DICM"


def test_dicom_outputs_name_what_was_asked_with_its_codes(store: Store, dicom: Path) -> None:
    """An organ's segment holds its lesion, the lesion has one of its own and names its organ."""
    options = Options(masks=("pancreas", "tumor"), outputs=("nifti", "seg", "sr"))
    result = segment(dicom, options, Engines(store))
    made = dict(files(result))
    seg = pydicom.dcmread(io.BytesIO(made["segmentation.dcm"]))
    organ, lesion = seg.SegmentSequence
    assert organ.SegmentedPropertyTypeCodeSequence[0].CodeValue == "15776009"
    assert lesion.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    (where,) = lesion.AnatomicRegionSequence
    assert (where.CodeValue, where.CodingSchemeDesignator) == ("15776009", "SCT")
    assert "starter" in str(seg.ManufacturerModelName)

    volumes = highdicom.seg.Segmentation.from_dataset(seg).get_volume(combine_segments=False)
    found = volumes.array.reshape(-1, 2).sum(axis=0).tolist()
    numbers = json.loads(made["report.json"])["masks"]
    assert found == [numbers["pancreas"]["voxels"], numbers["tumor"]["voxels"]]
    assert found[1] > 0

    sr = pydicom.dcmread(io.BytesIO(made["report.dcm"]))
    referred = {item.value for item in sr.iterall() if item.keyword == "ReferencedSOPInstanceUID"}
    assert seg.SOPInstanceUID in referred


def test_unknown_models_and_devices(store: Store, ct: Path) -> None:
    with pytest.raises(ModelNotFound, match="starter@live"):
        segment(ct, Options("monet"), Engines(store))
    with pytest.raises(BadParameter, match="auto, cpu, cuda"):
        Options(device="tpu")


def test_raising_in_progress_stops_the_work(store: Store, ct: Path) -> None:
    seen = []

    def progress(step: str, part: float) -> None:
        seen.append(step)
        if step == "network":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        segment(ct, Options(), Engines(store), progress=progress)
    assert seen[-1] == "network"


def test_the_service_loads_no_torch() -> None:
    code = (
        "import sys, serving.service, serving.commands, serving.demo, serving.segment\n"
        "bad = {'torch', 'monai', 'training', 'nvflare'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {bad}' if bad else 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60
    )
