"""What data sets call the structures: published label names to Islet's."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from models.labels import BY_NAME

_ANYWHERE = {"left", "right", "whole", "upper", "middle", "lower", "lobe"}
_SYNONYMS = {
    "kidneys": "kidney",
    "kidney_and_mass": "kidney",
    "kidney_and_masses": "kidney",
    "gall_bladder": "gallbladder",
    "oesophagus": "esophagus",
    "lungs": "lung",
    "hepatic_vessels": "hepatic_vessel",
    "hepatic_tumor": "liver_tumor",
    "pancreatic_tumor": "pancreas_tumor",
    "colon_cancer_primaries": "colon_tumor",
}
# Data sets name lesions by kind alone; the organ beside them says which lesion it is.
_TUMORS = {"cancer", "tumor", "tumour", "tumors", "lesion"}
_MASSES = {"mass", "masses"}
_CYSTS = {"cyst", "cysts"}
_VESSELS = {"vessel", "vessels"}
_LESION_ORGANS = ("pancreas", "kidney", "liver", "colon", "lung")


def structures(names: Mapping[int, str], title: str = "") -> dict[int, str]:
    """Islet's structure for each label value that means one.

    Sides and lobes do not matter: ``left kidney`` is kidney. A lesion named by its kind alone
    belongs to the only organ beside it; where no organ is labelled, to the one in the title.

    Args:
        names: label value to published name.
        title: the data set's name, e.g. ``Lung`` or ``HepaticVessel``.
    """
    plain = {value: _plain(name) for value, name in names.items()}
    organ = _lesion_organ(set(plain.values()), title)
    found = {value: _structure(name, organ, plain.values()) for value, name in plain.items()}
    return {value: name for value, name in found.items() if name is not None}


def _plain(name: str) -> str:
    words = name.replace("_", " ").lower().split()
    plain = "_".join(word for word in words if word not in _ANYWHERE)
    return _SYNONYMS.get(plain, plain)


def _lesion_organ(names: Collection[str], title: str) -> str | None:
    """The organ in which a lesion without a name of its own lies, where there is but one."""
    organs = {BY_NAME[name].parent or name for name in names if name in BY_NAME}
    if not organs:
        letters = title.lower().replace("hepatic", "liver")
        organs = {organ for organ in _LESION_ORGANS if organ in letters}
    candidates = organs & set(_LESION_ORGANS) or organs
    return next(iter(candidates)) if len(candidates) == 1 else None


def _structure(name: str, organ: str | None, names: Collection[str]) -> str | None:
    if name in BY_NAME or organ is None:
        return name if name in BY_NAME else None
    if name in _VESSELS:
        return "hepatic_vessel" if organ == "liver" else None
    # Where tumors have a name of their own, the other masses are cysts (KiTS's regions).
    cyst = name in _CYSTS or (name in _MASSES and any(n in _TUMORS for n in names))
    if cyst or name in _TUMORS | _MASSES:
        lesion = f"{organ}_{'cyst' if cyst else 'tumor'}"
        # A lesion that Islet has no name for is a part of its organ, not background.
        return lesion if lesion in BY_NAME else organ
    return None
