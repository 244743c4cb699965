"""What can be made of a segmentation: the names callers use, the files, and what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from imaging.errors import BadParameter
from imaging.version import VERSION
from imaging.volume import Volume
from models.confidence import is_lesion
from models.labels import BY_NAME, Structure, members, values
from models.store import StoredModel

if TYPE_CHECKING:
    from imaging.writers.segments import Algorithm, Segment

# Every output by the name that a request uses. The report and the preview are always made;
# ``report`` alone asks for nothing else. ``ct`` is the CT as it was read, for viewers that cannot
# read what was sent.
OUTPUTS = ("nifti", "ct", "seg", "seg-full", "seg-labelmap", "rtstruct", "sr", "report")

# File of each output that is DICOM, in the order of the result.
DICOM_FILES: dict[str, str] = {
    "seg": "segmentation.dcm",
    "seg-full": "segmentation-full.dcm",
    "seg-labelmap": "segmentation-labelmap.dcm",
    "rtstruct": "structures.dcm",
    "sr": "report.dcm",
}

LABELS = "labels.nii.gz"
CT = "ct.nii.gz"
PREVIEW = "preview.png"
REPORT = "report.json"
RESULT = "result.zip"

# How a file's name ends, to its media type.
MEDIA_TYPES: dict[str, str] = {
    ".nii.gz": "application/gzip",
    ".dcm": "application/dicom",
    ".png": "image/png",
    ".json": "application/json",
    ".zip": "application/zip",
}


def check_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """The named outputs, each once, in the order of ``OUTPUTS``.

    Raises:
        BadParameter: an unknown name, or none at all.
    """
    for name in names:
        if name not in OUTPUTS:
            raise BadParameter(
                f"There is no output {name[:64]!r}; use one of {', '.join(OUTPUTS)}.",
                parameter="outputs",
                known=list(OUTPUTS),
            )
    if not names:
        raise BadParameter(
            f"No output is asked for; use one of {', '.join(OUTPUTS)}.",
            parameter="outputs",
            known=list(OUTPUTS),
        )
    return tuple(name for name in OUTPUTS if name in names)


def media_type(name: str) -> str:
    """Media type of a result's file, by how its name ends."""
    return next(kind for suffix, kind in MEDIA_TYPES.items() if name.endswith(suffix))


@dataclass(frozen=True)
class Coded:
    """What a DICOM output says of a segmentation besides its voxels.

    Attributes:
        segments: of the structures that were asked for.
        algorithm: the model.
    """

    segments: tuple[Segment, ...]
    algorithm: Algorithm


def coded(masks: Sequence[str], model: StoredModel) -> Coded:
    """The asked masks and the model in DICOM's words.

    Every structure of the model that belongs to an asked mask is one segment.
    """
    from imaging.writers.segments import Algorithm

    asked = {s.value: s for mask in masks for s in members(mask)}
    found = [s for _, s in sorted(asked.items()) if s.name in model.manifest.outputs]
    algorithm = Algorithm(
        name=model.name,
        version=str(model.version),
        description=f"Islet {VERSION}, {model.manifest.architecture}",
        sha256=model.sha256,
    )
    return Coded(tuple(map(segment_of, found)), algorithm)


def segment_of(structure: Structure) -> Segment:
    """A structure in DICOM's words.

    An organ holds its lesions, as its mask does; a lesion or a vessel names its organ as anatomy.
    A lesion is of a kind of its own, no anatomy itself.
    """
    from imaging.writers.segments import Code, Segment

    category = (
        Code("49755003", "SCT", "Morphologically Abnormal Structure")
        if is_lesion(structure)
        else Code("91723000", "SCT", "Anatomical Structure")
    )
    organ = BY_NAME[structure.parent] if structure.parent else None
    return Segment(
        name=structure.name,
        label=structure.name.replace("_", " ").capitalize(),
        values=values(structure.name),
        value=structure.value,
        kind=Code(structure.snomed, "SCT", structure.meaning),
        category=category,
        anatomy=Code(organ.snomed, "SCT", organ.meaning) if organ else None,
        colour=structure.colour,
    )


def dicom_files(
    outputs: Sequence[str], labels: Volume, said: Coded
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each asked DICOM file; they must be made in this order.

    The SR refers to the segments of the SEG that was made before it. A LABELMAP is not referred
    to: its organs lack their lesions, so its volumes are others.

    Raises:
        NotDicom: on making one, when the CT came without DICOM headers.
    """
    from imaging.writers.dicom_seg import encode_seg
    from imaging.writers.report_sr import encode_sr
    from imaging.writers.rtstruct import encode_rtstruct

    made: dict[str, bytes] = {}

    def seg(name: str, style: str) -> bytes:
        made[name] = encode_seg(labels, said.segments, said.algorithm, style)
        return made[name]

    def sr() -> bytes:
        referred = made.get("seg") or made.get("seg-full")
        return encode_sr(labels, said.segments, said.algorithm, referred)

    makers: dict[str, Callable[[], bytes]] = {
        "seg": partial(seg, "seg", "binary"),
        "seg-full": partial(seg, "seg-full", "binary-full"),
        "seg-labelmap": partial(seg, "seg-labelmap", "labelmap"),
        "rtstruct": partial(encode_rtstruct, labels, said.segments, said.algorithm),
        "sr": sr,
    }
    for name, file in DICOM_FILES.items():
        if name in outputs:
            yield file, makers[name]
