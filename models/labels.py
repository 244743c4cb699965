"""The only list of structures: name, label value, SNOMED CT code, colour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imaging.errors import BadParameter


@dataclass(frozen=True)
class Structure:
    """An organ or a lesion.

    Attributes:
        name: stable name, used in manifests, data sets and requests.
        value: its value in every label map, 1..255.
        snomed: SNOMED CT concept identifier: an organ's anatomy, or a lesion's kind as DICOM
            CID 7159 lists it (where it grows is its parent's concept).
        meaning: DICOM's code meaning for that concept.
        colour: recommended display colour, sRGB 0..255.
        parent: for a lesion or a vessel, the organ it lies in; where a data set has labels for
            the organ but not for it, its voxels lie inside the organ's label.
    """

    name: str
    value: int
    snomed: str
    meaning: str
    colour: tuple[int, int, int]
    parent: str | None = None


STRUCTURES: tuple[Structure, ...] = (
    Structure("pancreas", 1, "15776009", "Pancreas", (249, 180, 111)),
    Structure("pancreas_tumor", 2, "108369006", "Neoplasm", (214, 39, 40), "pancreas"),
    Structure("kidney", 3, "64033007", "Kidney", (88, 148, 224)),
    Structure("kidney_tumor", 4, "108369006", "Neoplasm", (227, 66, 190), "kidney"),
    Structure("kidney_cyst", 5, "367643001", "Cyst", (67, 214, 216), "kidney"),
    Structure("liver", 6, "10200004", "Liver", (164, 96, 66)),
    Structure("spleen", 7, "78961009", "Spleen", (157, 108, 162)),
    Structure("gallbladder", 8, "28231008", "Gallbladder", (139, 150, 98)),
    Structure("stomach", 9, "69695003", "Stomach", (216, 132, 105)),
    Structure("duodenum", 10, "38848004", "Duodenum", (255, 253, 229)),
    Structure("esophagus", 11, "32849002", "Esophagus", (211, 171, 143)),
    Structure("liver_tumor", 12, "108369006", "Neoplasm", (255, 127, 80), "liver"),
    Structure("hepatic_vessel", 13, "59820001", "Blood Vessel", (0, 110, 180), "liver"),
    Structure("colon", 14, "71854001", "Colon", (255, 204, 61)),
    Structure("colon_tumor", 15, "108369006", "Neoplasm", (150, 20, 90), "colon"),
    Structure("lung", 16, "39607008", "Lung", (197, 165, 145)),
    Structure("lung_tumor", 17, "108369006", "Neoplasm", (180, 60, 20), "lung"),
)

BY_NAME: dict[str, Structure] = {s.name: s for s in STRUCTURES}

# In the labels that a training learns from: a voxel of which nothing is known, under this name in a
# data set's list of values. No model gives it.
UNKNOWN, UNKNOWN_NAME = 255, "unknown"

# Unions a user asks for. An organ's mask holds its lesions too; ``*_parenchyma`` is the organ's
# own label value alone. ``kidney``, ``kidney_masses`` and ``kidney_tumor`` are the three
# hierarchical evaluation classes of KiTS21.
GROUPS: dict[str, tuple[str, ...]] = {
    "pancreas": ("pancreas", "pancreas_tumor"),
    "tumor": ("pancreas_tumor", "kidney_tumor"),
    "kidney": ("kidney", "kidney_tumor", "kidney_cyst"),
    "kidney_masses": ("kidney_tumor", "kidney_cyst"),
    "liver": ("liver", "liver_tumor", "hepatic_vessel"),
    "colon": ("colon", "colon_tumor"),
    "lung": ("lung", "lung_tumor"),
    "pancreas_parenchyma": ("pancreas",),
    "kidney_parenchyma": ("kidney",),
}

# What a request that names nothing gets.
DEFAULT_MASKS: tuple[str, ...] = ("pancreas", "tumor", "kidney")

MASKS: tuple[str, ...] = (*GROUPS, *(s.name for s in STRUCTURES if s.name not in GROUPS))


def members(mask: str) -> tuple[Structure, ...]:
    """The structures whose union is the named mask.

    Raises:
        BadParameter: no such mask.
    """
    if mask in GROUPS:
        return tuple(BY_NAME[name] for name in GROUPS[mask])
    if mask in BY_NAME:
        return (BY_NAME[mask],)
    raise BadParameter(
        f"There is no structure named {mask[:64]!r}; choose from {', '.join(MASKS)}.",
        structure=mask[:64],
        known=list(MASKS),
    )


def values(mask: str) -> tuple[int, ...]:
    """The label values whose union is the named mask."""
    return tuple(s.value for s in members(mask))


def label_value(name: str) -> int:
    """The value of a structure in label maps, or of ``unknown``."""
    return UNKNOWN if name == UNKNOWN_NAME else structure(name).value


def structure(name: str) -> Structure:
    """The structure of that name.

    Raises:
        BadParameter: no such structure.
    """
    if name not in BY_NAME:
        raise BadParameter(
            f"There is no structure {name[:64]!r}; choose from {', '.join(BY_NAME)}."
        )
    return BY_NAME[name]


def visible_as(name: str, annotated: Iterable[str]) -> str | None:
    """As what a voxel of structure ``name`` appears in labels of the ``annotated`` structures.

    Returns:
        The structure itself when annotated, its parent organ when only that is, else ``None``:
        the voxel lies in what those labels leave unlabelled.
    """
    known = set(annotated)
    if name in known:
        return name
    parent = structure(name).parent
    return parent if parent in known else None
