"""What a check of data sets finds: the one list of kinds, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from imaging.errors import BadParameter

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: an ``error`` makes a training wrong or stops it; a ``warning`` is worth a look.
        fix: what to do about it.
    """

    severity: Severity
    fix: str


_HEADER = "correct the header, or write the label once more on the CT's grid"
_HU = "store Hounsfield units, with the scanner's rescale slope and intercept applied"
_LOOK = "look at the case; draw its labels anew or leave it out"

# By their stable codes.
KINDS: Mapping[str, Kind] = {
    "no_data_set": Kind("error", "name a data set's folder and mend its description"),
    "missing_file": Kind("error", "put the file back or take the case off the list"),
    "unreadable_image": Kind("error", "fetch the file again or leave the case out"),
    "unreadable_label": Kind("error", "fetch the file again or leave the case out"),
    "shape_mismatch": Kind("error", "write the label once more on the CT's grid"),
    "spacing_mismatch": Kind("error", _HEADER),
    "direction_mismatch": Kind("error", _HEADER),
    "origin_mismatch": Kind("error", _HEADER),
    "label_not_whole": Kind("error", "resample labels to the nearest voxel, never linearly"),
    "label_out_of_range": Kind("error", "store label values from 0 to 255"),
    "mask_not_binary": Kind("error", "store 0 and 1 in a mask"),
    "stray_value": Kind("error", "remove the value, or name it in the data set's description"),
    "unnamed_value": Kind(
        "warning", "nothing, where these are structures that Islet does not know"
    ),
    "empty_label": Kind("error", "label the case or leave it out"),
    "empty_masks": Kind("warning", "leave the case out unless the structures are out of view"),
    "absent_organ": Kind("error", "take the organ off what the data set annotates"),
    "absent_structure": Kind("warning", "make sure that the data set annotates it"),
    "wrong_spacing": Kind("error", "store the spacing in millimetres"),
    "spacing_outlier": Kind("warning", "compare the spacing with the original series"),
    "too_few_slices": Kind("error", "store the whole series or leave the case out"),
    "constant_image": Kind("error", "fetch the file again or leave the case out"),
    "narrow_range": Kind("error", _HU),
    "not_hounsfield": Kind("error", _HU),
    "extreme_hu": Kind("warning", _HU),
    "organ_hu": Kind("error", f"{_HU}; make sure that label and CT are one patient's"),
    "organ_volume": Kind("warning", _LOOK),
    "orientation": Kind(
        "error", "compare the orientation with the original series; leave a true exception out"
    ),
    "corrected": Kind("warning", "repair the file where the assumption is wrong"),
    "duplicate_name": Kind("error", "rename one of the two"),
    "duplicate_voxels": Kind("error", "keep one of the two, in one split"),
    "unreadable_unlabelled": Kind("warning", "fetch the file again before you use it"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        code: one of ``KINDS``.
        dataset: the folder, as it was named.
        case: name of the case, empty where the whole data set is meant.
        cause: what was found, with its values.
    """

    code: str
    dataset: str
    case: str
    cause: str

    def __post_init__(self) -> None:
        if self.code not in KINDS:
            raise BadParameter(f"There is no finding {self.code!r}; add it to KINDS.")

    @property
    def severity(self) -> Severity:
        """``error`` or ``warning``."""
        return KINDS[self.code].severity

    @property
    def fix(self) -> str:
        """What to do about it."""
        return KINDS[self.code].fix


@dataclass(frozen=True)
class Report:
    """Everything found in some data sets.

    Attributes:
        cases: how many were looked at.
        findings: errors first, then in the order of the data sets and by case.
    """

    cases: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make a training wrong or stop it."""
        return tuple(f for f in self.findings if f.severity == "error")

    def table(self) -> str:
        """A Markdown table: a row a finding."""
        rows = [("severity", "data set", "case", "what", "cause", "fix"), ("---",) * 6]
        rows += [
            (f.severity, f.dataset, f.case or "all", f.code, f.cause, f.fix) for f in self.findings
        ]
        return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)

    def __str__(self) -> str:
        warnings = len(self.findings) - len(self.errors)
        summary = f"{self.cases} cases; errors: {len(self.errors)}, warnings: {warnings}"
        return f"{summary}\n\n{self.table()}" if self.findings else summary


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
