"""A data set of cases whose organs have other patients' forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imaging.errors import BadParameter
from training.cases import Case, Loaded
from training.copies import Copied, write_copies
from training.reshaping.cases import reshape_case
from training.reshaping.forms import Forms


def reshape_set(cases: Sequence[Case], out: Path, forms: Forms, copies: int, seed: int) -> int:
    """Write copies of cases with other forms in each (:func:`training.copies.write_copies`).

    The index's entries list the forms.

    Args:
        cases: of any layout.
        out: a new or empty folder.
        forms: the library.
        copies: of each case.
        seed: of the set.

    Returns:
        How many organs took another form.

    Raises:
        BadParameter: cases none of which labels pancreas or kidney, or what ``write_copies``
            refuses.
        DataError: of :func:`training.cases.load`, or a file of the library that is no label map.
    """
    if not any({"pancreas", "kidney"} & set(case.annotated) for case in cases):
        raise BadParameter(
            f"None of the {len(cases)} cases annotates pancreas or kidney; name other data sets."
        )

    def make(case: Loaded, rng: np.random.Generator) -> Copied:
        made = reshape_case(case, forms, rng)
        told = {"forms": list(made.forms)}
        how = "warped with the CT"
        return Copied(made.image, made.labels, case.annotated, made.forms, "organ", how, told)

    return sum(len(made.shapes) for made in write_copies(cases, out, copies, seed, make, "form"))
