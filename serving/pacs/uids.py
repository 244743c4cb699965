"""Unique identifiers: what is one, and those of a job's results, the same at every attempt."""

from __future__ import annotations

import re
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from imaging.errors import BadParameter

# PS3.5 9.1 forbids leading zeros; archives hold such identifiers all the same.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST = 64


def check_uid(name: str, value: str) -> str:
    """The value, when it is a DICOM unique identifier.

    Raises:
        BadParameter: it is none.
    """
    if len(value) > _LONGEST or not _UID.fullmatch(value):
        raise BadParameter(
            f"{name} is {value[:80]!r}; a UID has up to {_LONGEST} digits and dots.",
            parameter=name,
        )
    return value


class Renamer:
    """Gives the objects of one job identifiers that follow from the job's.

    A second attempt then stores the objects of the first one again, and no others beside them.
    Objects must come in the order they refer to each other.

    Args:
        seed: identifier of the job.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._known: dict[str, str] = {}

    def __call__(self, name: str, data: bytes) -> bytes:
        """The object under new identifiers of its own, its series and what it refers to here.

        Args:
            name: of the file; different names get different identifiers.
            data: a DICOM file.
        """
        dataset = dcmread(BytesIO(data))
        for role in ("SeriesInstanceUID", "SOPInstanceUID"):
            self._known[str(dataset[role].value)] = generate_uid(
                entropy_srcs=[self._seed, name, role]
            )
        self._replace(dataset)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        out = BytesIO()
        dataset.save_as(out, enforce_file_format=True)
        return out.getvalue()

    def _replace(self, dataset: Dataset) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    self._replace(item)
            elif element.VR == "UI" and element.VM == 1:
                element.value = self._known.get(str(element.value), element.value)
