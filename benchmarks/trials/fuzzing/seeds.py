"""Small files to begin with: most are read, some are refused; made by code, the same every time."""

from __future__ import annotations

import gzip
import io
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
from nibabel.affines import from_matvec
from onnx import TensorProto, helper, numpy_helper
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from models.manifest import Calibration, Cleanup, Intensity, Manifest, Provenance, Sampling, Trust
from models.onnxfile import embed

# The first byte of DICOM data: what follows is a slice among others, or a file of its own.
AMONG_OTHERS, ALONE = b"\0", b"\1"

_UID = "1.2.826.0.1.3680043.8.498."
_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_STORED = np.random.default_rng(0).integers(0, 4096, (3, 4, 5)).astype(np.uint16)


def nifti() -> list[bytes]:
    """Of both versions and several types, plain and packed."""
    affine = from_matvec(np.diag([0.7, 0.9, 2.5]), [-101.5, 40.25, 900])
    found = []
    for dtype in (np.int16, np.uint8, np.float32, np.float64):
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            found.append(kind(_STORED.transpose().astype(dtype), affine).to_bytes())
    scaled = nib.Nifti1Image(_STORED.transpose().astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, -1024)
    scaled.header.set_xyzt_units("meter")
    return [*found, scaled.to_bytes(), *(gzip.compress(data, mtime=0) for data in found[:2])]


def dicom() -> list[bytes]:
    """Slices in several transfer syntaxes, and an enhanced CT."""
    among = [AMONG_OTHERS + _written(_slice(0), syntax) for syntax in _SYNTAXES]
    packed = _slice(0)
    packed.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    packed.compress(RLELossless, generate_instance_uid=False)
    among.append(AMONG_OTHERS + _written(packed, RLELossless))
    return [*among, ALONE + _written(_enhanced(), ExplicitVRLittleEndian)]


def slices(folder: Path) -> list[Path]:
    """Three slices of a CT, as files."""
    paths = [folder / f"{index}.dcm" for index in range(len(_STORED))]
    for index, path in enumerate(paths):
        path.write_bytes(_written(_slice(index), ExplicitVRLittleEndian))
    return paths


def archive() -> list[bytes]:
    """Of a series, of a NIfTI file, with folders, a link, a nested archive, and nothing."""
    series = {f"Series/{i}.dcm": _written(_slice(i), _SYNTAXES[0]) for i in range(len(_STORED))}
    plain = {"ct.nii": nifti()[0]}
    made = [
        _packed(series, zipfile.ZIP_DEFLATED),
        _packed(plain, zipfile.ZIP_DEFLATED),
        _packed(plain, zipfile.ZIP_STORED),
        _packed({"inner.zip": _packed({"a": b"a" * 50}, zipfile.ZIP_STORED)}, zipfile.ZIP_STORED),
        _packed({"../up": b"x", "__MACOSX/a": b"m", "folder/": b""}, zipfile.ZIP_STORED),
        _packed({}, zipfile.ZIP_STORED),
    ]
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    return [*made, _packed({link: b"/etc/hostname"}, zipfile.ZIP_STORED)]


def manifest() -> list[bytes]:
    """A short one and a full one."""
    return [_described().to_json().encode(), manifest_text().encode()]


@cache
def manifest_text() -> str:
    """A manifest with most of its fields set, which goes beside :func:`model`'s files."""
    full = _described(
        cleanup=(Cleanup("pancreas", keep_largest=1, min_ml=0.5),),
        calibration=Calibration(1.5, (Trust("kidney", 0.1, 1.0, 0.5, 150.0, 0.2),), {"n": 5}),
        scores={"dice": {"kidney": 0.9}},
        fidelity={"openvino": 0.999},
        edge_mm=0.5,
    )
    return full.to_json()


def model() -> list[bytes]:
    """ONNX files with a manifest and without one, with a body, foreign and outside weights."""
    sound = _graph([helper.make_node("Mul", ["image", "factor"], ["scores"])])
    foreign = _graph([helper.make_node("Mul", ["image", "factor"], ["scores"], domain="own")])
    outside = _graph([helper.make_node("Mul", ["image", "factor"], ["scores"])])
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    body = helper.make_graph([helper.make_node("Identity", ["image"], ["inner"])], "body", [], [])
    branch = helper.make_node("If", ["go"], ["scores"], then_branch=body, else_branch=body)
    plain = [graph.SerializeToString() for graph in (sound, foreign, outside, _graph([branch]))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        embed(sound, _described(), path)
        return [path.read_bytes(), *plain]


def _described(**fields: object) -> Manifest:
    return Manifest(
        name="tiny",
        architecture="tiny",
        sampling=Sampling((None, 1.5, 1.5)),
        intensity=Intensity((-200.0, 300.0)),
        dims=3,
        patch=(16, 32, 32),
        outputs=("pancreas", "kidney"),
        provenance=Provenance("test", data=({"name": "phantoms", "cases": 2},), seed=1),
        **fields,  # type: ignore[arg-type]
    )


def _graph(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    given, made = (["n", channels, "z", "y", "x"] for channels in (1, 3))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(np.ones((1, 3, 1, 1, 1), np.float32), "factor")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _packed(files: dict[str, bytes] | dict[zipfile.ZipInfo, bytes], method: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, data in files.items():
            # A date of its own would make other bytes every time.
            entry = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            made.writestr(entry, data, method)
    return target.getvalue()


def _written(ds: Dataset, syntax: UID) -> bytes:
    ds.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    order = {"implicit_vr": syntax == ImplicitVRLittleEndian}
    if "PixelData" in ds:
        ds["PixelData"].VR = "OB" if syntax == RLELossless else "OW"
    dcmwrite(target, ds, little_endian=syntax != ExplicitVRBigEndian, **order)
    return target.getvalue()


def _slice(index: int) -> FileDataset:
    ds = _image(_STORED[index], CTImageStorage, f"{_UID}1.{index + 1}")
    ds.ImagePositionPatient = [-101.5, -57.25, 300 + 2.5 * index]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [0.9, 0.7]
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    return ds


def _enhanced() -> FileDataset:
    ds = _image(_STORED, EnhancedCTImageStorage, f"{_UID}2")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(_STORED)
    shared: dict[str, dict[str, object]] = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelMeasuresSequence": {"PixelSpacing": [0.9, 0.7], "SliceThickness": 2.5},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024},
    }
    ds.SharedFunctionalGroupsSequence = Sequence([_groups(shared)])
    frames = [
        _groups({"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 2.5 * index]}})
        for index in range(len(_STORED))
    ]
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return ds


def _groups(given: Mapping[str, Mapping[str, object]]) -> Dataset:
    ds = Dataset()
    for name, elements in given.items():
        inner = Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        setattr(ds, name, Sequence([inner]))
    return ds


def _image(pixels: np.ndarray, sop_class: UID, uid: str) -> FileDataset:
    ds = FileDataset("", {}, preamble=b"\0" * 128)
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{_UID}3", f"{_UID}4"
    ds.FrameOfReferenceUID = f"{_UID}5"
    ds.SeriesNumber, ds.Modality = 3, "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = pixels.tobytes()
    return ds
