"""Output formats. To add one: a file here and an entry in ``WRITERS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from imaging.volume import Volume
from imaging.writers.dicom_seg import encode_seg
from imaging.writers.nifti import encode_nifti
from imaging.writers.report_sr import encode_sr
from imaging.writers.rtstruct import encode_rtstruct
from imaging.writers.segments import Algorithm, Segment

Encode = Callable[[Volume, Sequence[Segment], Algorithm], bytes]


@dataclass(frozen=True)
class Writer:
    """An output format.

    Attributes:
        suffix: of its files.
        encode: the bytes of a label map's file.
        of_dicom: whether it needs a label map of a CT that was read from DICOM.
    """

    suffix: str
    encode: Encode
    of_dicom: bool = True


def _nifti(labels: Volume, _segments: Sequence[Segment], _algorithm: Algorithm) -> bytes:
    return encode_nifti(labels)


WRITERS: dict[str, Writer] = {
    "nifti": Writer(".nii.gz", _nifti, of_dicom=False),
    "seg": Writer(".dcm", encode_seg),
    "seg-full": Writer(".dcm", partial(encode_seg, style="binary-full")),
    "seg-labelmap": Writer(".dcm", partial(encode_seg, style="labelmap")),
    "rtstruct": Writer(".dcm", encode_rtstruct),
    "sr": Writer(".dcm", encode_sr),
}
