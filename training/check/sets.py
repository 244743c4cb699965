"""Whole data sets looked at: every case of them, then what only a comparison shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from imaging.errors import IsletError
from models.labels import BY_NAME
from training.cases import Case
from training.check.findings import Finding, Report
from training.check.look import Facts, digest, look, read
from training.datasets import listed_cases

# With fewer cases a lesion, a gallbladder or a kidney may well be in none of them.
_ENOUGH_FOR_ABSENCE = 5
# With fewer cases there is no median to be far from.
_ENOUGH_FOR_MEDIAN = 4
# A spacing is an outlier beyond twice or half the median, and five robust standard deviations.
_OUTLIER_FACTOR, _OUTLIER_DEVIATIONS = 2.0, 5.0
# From a median absolute deviation to the standard deviation of a normal distribution.
_MAD_TO_DEVIATION = 1.4826
# Folders of images, as public data sets name them: imagesTs, img, TestImage.
_IMAGE_FOLDER = re.compile(r"image|img", re.IGNORECASE)


@dataclass(frozen=True)
class _Looked:
    """A case that was looked at, or an image without labels beside the cases."""

    dataset: str
    name: str
    split: str
    digest: str | None
    case: Case | None = None
    facts: Facts | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.split}) of {self.dataset}"


class _Notes:
    """The findings so far."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def add(self, dataset: str, case: str, code: str, cause: str) -> None:
        self.found.append(Finding(code, dataset, case, cause))


def check(folders: Sequence[Path]) -> Report:
    """Look at every case of some data sets, and compare them with each other.

    Memory holds one case at a time, and each file is read once. The CTs that a data set's folder
    holds beside its labelled cases (a published test set) are read too, to find the same scan
    among them; DICOM series are not searched for that.

    Args:
        folders: of data sets in any layout of ``training.datasets``.
    """
    notes = _Notes()
    looked: list[_Looked] = []
    for folder in {folder.resolve(): folder for folder in folders}.values():
        cases = _listed(folder, notes)
        own = [_look(str(folder), case, notes) for case in tqdm(cases, disable=None, unit="case")]
        _check_values(own, notes)
        _check_absence(own, notes)
        _check_spacings(own, notes)
        looked += [*own, *_unlabelled(folder, cases, notes)]
    _check_names(looked, notes)
    _check_duplicates(looked, notes)
    named = [str(folder) for folder in folders]
    findings = sorted(
        notes.found, key=lambda f: (f.severity != "error", named.index(f.dataset), f.case)
    )
    return Report(sum(one.case is not None for one in looked), tuple(findings))


def _listed(folder: Path, notes: _Notes) -> list[Case]:
    try:
        return listed_cases(folder)
    except (IsletError, OSError) as error:
        details = error.details if isinstance(error, IsletError) else {}
        notes.add(str(folder), str(details.get("case", "")), "no_data_set", str(error))
        return []


def _look(dataset: str, case: Case, notes: _Notes) -> _Looked:
    facts = look(case, partial(notes.add, dataset, case.name))
    return _Looked(dataset, case.name, case.split, facts.digest, case, facts)


def _unlabelled(folder: Path, cases: Sequence[Case], notes: _Notes) -> Iterator[_Looked]:
    """The images in the folder that no case names: named as the cases' are, or among images."""
    if not cases:
        return
    files = {path.resolve() for case in cases for path in case.files}
    names = {case.image.name for case in cases}
    for path in sorted(folder.rglob("*.nii*")):
        among = path.name in names or _IMAGE_FOLDER.search(path.parent.name)
        # macOS leaves a file ._NAME beside NAME in archives.
        if not among or path.name.startswith(".") or path.resolve() in files:
            continue
        name = path.relative_to(folder).as_posix()
        image = read(path, "unreadable_unlabelled", partial(notes.add, str(folder), name))
        if image is not None:
            yield _Looked(str(folder), name, "no labels", digest(image))


def _check_values(looked: Sequence[_Looked], notes: _Notes) -> None:
    """A value that one case alone has is a slip; one that many have is another structure."""
    having = Counter(value for one in looked if one.facts for value in one.facts.unnamed)
    for one in looked:
        stray = sorted(v for v in (one.facts.unnamed if one.facts else ()) if having[v] == 1)
        if stray and len(looked) > 1:
            cause = f"holds the label values {stray}, which no other case has and nothing names"
            notes.add(one.dataset, one.name, "stray_value", cause)
    shared = {v: n for v, n in sorted(having.items()) if n > 1 or len(looked) == 1}
    if shared:
        told = ", ".join(f"{value} in {count}" for value, count in shared.items())
        cause = f"label values that mean no structure of Islet, with their cases: {told}"
        notes.add(looked[0].dataset, "", "unnamed_value", cause)


def _check_absence(looked: Sequence[_Looked], notes: _Notes) -> None:
    """Structures that the data set says it annotates and no case has."""
    expected: Counter[str] = Counter()
    present: set[str] = set()
    for one in looked:
        if one.case and one.facts and one.facts.present is not None:
            expected.update(one.case.annotated)
            present |= one.facts.present
    for name, cases in expected.items():
        if name not in present:
            sure = BY_NAME[name].parent is None and cases >= _ENOUGH_FOR_ABSENCE
            code = "absent_organ" if sure else "absent_structure"
            notes.add(looked[0].dataset, "", code, f"{name} is in none of {cases} cases")


def _check_spacings(looked: Sequence[_Looked], notes: _Notes) -> None:
    """Slice distances and pixel sizes far from the data set's own."""
    read_ones = [(one, one.facts.spacing) for one in looked if one.facts and one.facts.spacing]
    if len(read_ones) < _ENOUGH_FOR_MEDIAN:
        return
    spacings = np.log([spacing for _, spacing in read_ones])
    middle = np.median(spacings, axis=0)
    apart = np.abs(spacings - middle)
    robust = _OUTLIER_DEVIATIONS * _MAD_TO_DEVIATION * np.median(apart, axis=0)
    far = apart > np.maximum(robust, np.log(_OUTLIER_FACTOR))
    usual = " x ".join(f"{mm:.3g}" for mm in np.exp(middle))
    for (one, spacing), outlier in zip(read_ones, far, strict=True):
        if outlier.any():
            found = " x ".join(f"{mm:.3g}" for mm in spacing)
            cause = f"{found} mm (S, P, L), where the data set's median is {usual} mm"
            notes.add(one.dataset, one.name, "spacing_outlier", cause)


def _check_names(looked: Sequence[_Looked], notes: _Notes) -> None:
    first: dict[str, _Looked] = {}
    for one in looked:
        if one.case is None:
            continue
        other = first.setdefault(one.name, one)
        if other is not one:
            cause = f"another case of {other.dataset} has the same name"
            notes.add(one.dataset, one.name, "duplicate_name", cause)


def _check_duplicates(looked: Sequence[_Looked], notes: _Notes) -> None:
    """The same voxels twice, be it in one split, in two or in two data sets."""
    first: dict[str, _Looked] = {}
    # Cases come before images without labels, so that a finding is always a case's.
    for one in sorted(looked, key=lambda one: one.case is None):
        if one.digest is None:
            continue
        other = first.setdefault(one.digest, one)
        if other is one or other.case is None:
            continue
        about, twin = (other, one) if one.case is None else (one, other)
        cause = f"its CT ({about.split}) has the voxels of {twin}"
        notes.add(about.dataset, about.name, "duplicate_voxels", cause)
