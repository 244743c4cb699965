"""Every forged input, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import chain

from benchmarks.trials.forged import cts, dicom, dicom_bytes, dicom_sets, nifti, packed, zips
from benchmarks.trials.forged.case import Case


@cache
def catalogue() -> Mapping[str, Case]:
    """All cases in the order of their families.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Case] = {}
    families = (nifti, packed, dicom, dicom_bytes, dicom_sets, zips, cts)
    for case in chain.from_iterable(family.cases() for family in families):
        if case.name in found:
            raise ValueError(f"two cases are named {case.name!r}")
        found[case.name] = case
    return found
