"""Whose an output is: names in any script, headers that lack things, and silence about both."""

from __future__ import annotations

import logging
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from imaging.dicom_headers import quiet
from imaging.errors import BadParameter
from imaging.writers import WRITERS
from imaging.writers.segments import Algorithm, Code
from tests.imaging.dicom_files import stored_values, write_series
from tests.imaging.dicom_outputs import ALGORITHM, SEGMENTS, label_map, labelled

SHAPE = (3, 8, 9)
OF_DICOM = [name for name, writer in WRITERS.items() if writer.of_dicom]
NAMES = {
    "latin": ("ISO_IR 100", "Müller^Jürgen"),
    "unicode": ("ISO_IR 192", "Διονυσιος^Ψ"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "unsaid": (None, "Doe^Jane"),
}


def _made(name: str, folder: Path, edit, algorithm: Algorithm = ALGORITHM) -> Dataset:
    files = write_series(folder, stored_values(SHAPE), edit=edit)
    volume = labelled(files, label_map(SHAPE))
    return dcmread(BytesIO(WRITERS[name].encode(volume, SEGMENTS, algorithm)))


@pytest.mark.parametrize(("character_set", "patient"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("name", OF_DICOM)
def test_a_name_survives_in_any_script(tmp_path: Path, name, character_set, patient) -> None:
    def edit(ds: Dataset, index: int) -> None:
        if character_set is not None:
            ds.SpecificCharacterSet = character_set
        ds.PatientName = patient
        ds.OtherPatientIDsSequence = [Dataset()]
        ds.OtherPatientIDsSequence[0].PatientID = "A-2"
        ds.OtherPatientIDsSequence[0].IssuerOfPatientID = patient.split("^")[0].split("=")[0]

    made = _made(name, tmp_path, edit)
    assert str(made.PatientName) == patient
    other = made.OtherPatientIDsSequence[0]
    assert other.IssuerOfPatientID == patient.split("^")[0].split("=")[0]
    assert made.get("SpecificCharacterSet") == character_set


@pytest.mark.parametrize("name", OF_DICOM)
def test_our_own_words_beyond_ascii_make_it_unicode(tmp_path: Path, name: str) -> None:
    def edit(ds: Dataset, index: int) -> None:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "Müller^Jürgen"

    made = _made(name, tmp_path, edit, Algorithm("膵臓モデル", "1"))
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert (str(made.PatientName), made.ManufacturerModelName) == ("Müller^Jürgen", "膵臓モデル")


@pytest.mark.parametrize("name", OF_DICOM)
def test_what_the_ct_lacks_is_empty(tmp_path: Path, name: str) -> None:
    def edit(ds: Dataset, index: int) -> None:
        for element in ("PatientName", "PatientID", "SeriesNumber", "FrameOfReferenceUID"):
            del ds[element]

    made = _made(name, tmp_path, edit)
    for element in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyID"):
        assert made[element].is_empty
    assert made.SeriesNumber < 100


@pytest.mark.parametrize("name", OF_DICOM)
def test_odd_values_pass_without_a_word(tmp_path: Path, name: str, caplog) -> None:
    odd = {
        "PatientName": "A^B^C^D^E^F^G",
        "PatientSex": "unknown to us",
        "PatientBirthDate": "31.12.1970",
        "StudyTime": "noon",
        "PatientWeight": "seventy",
    }

    def edit(ds: Dataset, index: int) -> None:
        with quiet():
            for element, value in odd.items():
                setattr(ds, element, value if element != "PatientWeight" else "70")
            ds["PatientWeight"]._value = odd["PatientWeight"]

    with quiet():
        made = _made(name, tmp_path, edit)
        assert {element: str(made[element].value) for element in odd} == odd
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


def test_outputs_of_a_ct_without_frame_of_reference_share_one(tmp_path: Path) -> None:
    series = generate_uid()

    def edit(ds: Dataset, index: int) -> None:
        del ds.FrameOfReferenceUID
        ds.SeriesInstanceUID = series

    frames = {_made(n, tmp_path / n, edit).FrameOfReferenceUID for n in ("seg", "rtstruct")}
    assert len(frames) == 1


@pytest.mark.parametrize(
    "text", ["", "a\\b", "a\nb", "x" * 65], ids=["empty", "backslash", "control", "long"]
)
def test_words_that_dicom_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="64 printable"):
        Algorithm(text, "1")
    with pytest.raises(BadParameter, match="64 printable"):
        Code("1", "SCT", text)


def test_importing_the_writers_imports_no_highdicom() -> None:
    code = (
        "import sys, imaging.writers; print({'highdicom', 'pydicom.sr', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
