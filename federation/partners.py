"""Hospitals of a federation made from a few shared CTs, each with its own labels and phantoms."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from federation.job import check_site
from imaging.errors import BadParameter
from models.labels import structure
from training.cases import Case
from training.datasets import ct_index, open_dataset
from training.datasets.subset import write_subset
from training.phantoms.sets import phantom_series, stranger_series
from training.planting import Shapes
from training.planting.sets import plant_set

# The model does not name the last three; augmentation fills them and gives them other phases.
_ORGANS = ("pancreas", "kidney", "liver", "spleen", "gallbladder", "stomach", "duodenum")
_LESIONS = ("pancreas_tumor", "kidney_tumor", "kidney_cyst")


@dataclass(frozen=True)
class Partner:
    """What one site of a made federation has.

    Attributes:
        name: of the site.
        annotated: structures that its labels name.
        cases: names of CTs that it has, of the set that is shared out.
        copies: of each of its CTs, with lesions of real shapes planted, beside the CT itself.
        phantoms: how many it has besides.
        strangers: how many CTs without an abdomen; that they hold none of its structures is known.
    """

    name: str
    annotated: tuple[str, ...]
    cases: tuple[str, ...] = ()
    copies: int = 0
    phantoms: int = 0
    strangers: int = 0

    @property
    def weight(self) -> int:
        """What the site counts: its patients; one where it has phantoms alone."""
        return len(self.cases) or 1

    def __post_init__(self) -> None:
        check_site(self.name)
        for name in self.annotated:
            structure(name)
        if min(self.copies, self.phantoms, self.strangers) < 0 or not (self.cases or self.phantoms):
            raise BadParameter(
                f"Site {self.name} needs cases or phantoms, and no negative number of copies "
                f"({self.copies}), phantoms ({self.phantoms}) or strangers ({self.strangers})."
            )


STARTER: tuple[Partner, ...] = (
    # Organs alone: nobody there outlined a lesion.
    Partner("a", _ORGANS, ("ircad17", "totalseg_example")),
    Partner("b", (*_ORGANS, *_LESIONS), ("chaos3", "tcga_coad"), copies=8),
    # Its liver's labels leave out what seem to be lesions.
    Partner(
        "c",
        (*(organ for organ in _ORGANS if organ != "liver"), *_LESIONS),
        ("thorax_abdomen_p2",),
        copies=8,
    ),
    Partner("d", ("kidney",), phantoms=8, strangers=8),
)
"""The federation of the released starter: five CTs at three sites, phantoms at a fourth."""


def without(partners: Sequence[Partner], names: Sequence[str]) -> tuple[Partner, ...]:
    """The partners with some CTs kept aside, to judge by; who has no other one is left out.

    Raises:
        BadParameter: a CT that none of them has, or nothing is left.
    """
    unknown = sorted(set(names) - {case for p in partners for case in p.cases})
    if unknown:
        raise BadParameter(f"No site has {', '.join(unknown)}; leave out CTs that one has.")
    kept = ((p, tuple(c for c in p.cases if c not in names)) for p in partners)
    left = tuple(replace(p, cases=cases) for p, cases in kept if cases or not p.cases)
    if not any(p.cases for p in left):
        raise BadParameter("No site has a CT left; leave out fewer.")
    return left


def share_out(
    partners: Sequence[Partner], data: Sequence[Path], shapes: Path | None, out: Path, seed: int
) -> dict[str, tuple[Path, ...]]:
    """Write every site's data sets; what is there whole is left as it is.

    Args:
        partners: the sites.
        data: data sets with the CTs that they name.
        shapes: real lesions' shapes, of :class:`training.planting.Shapes`, for planted copies.
        out: a folder for all; a site's sets lie in that of its name.
        seed: of phantoms and lesions.

    Returns:
        The folders of each site's data sets.

    Raises:
        BadParameter: a CT that no set has, copies without shapes, or sets of other CTs in ``out``.
    """
    cases = {case.name: case for folder in data for case in open_dataset(folder)}
    missing = [n for p in partners for n in p.cases if n not in cases]
    if missing:
        raise BadParameter(f"No data set holds {', '.join(missing)}; there are {', '.join(cases)}.")
    library = None
    if any(p.copies for p in partners):
        if shapes is None:
            raise BadParameter("Copies with planted lesions need --shapes, real lesions' shapes.")
        library = Shapes.open(shapes, cache=out / "shapes.npz")
    seeds = np.random.SeedSequence(seed).generate_state(len(partners)).tolist()
    return {
        partner.name: tuple(
            _sets(partner, [cases[n] for n in partner.cases], library, out / partner.name, own)
        )
        for partner, own in zip(partners, seeds, strict=True)
    }


def _sets(
    partner: Partner, cases: Sequence[Case], shapes: Shapes | None, out: Path, seed: int
) -> Iterator[Path]:
    """A site's data sets, made where they are not there."""
    if cases:
        narrowed, planted = out / "cts", out / "planted"
        if not _whole(narrowed):
            write_subset(cases, narrowed, annotated=partner.annotated)
        elif {c.name for c in open_dataset(narrowed)} != set(partner.cases):
            raise BadParameter(f"{narrowed} has other CTs of an earlier run; name another --out.")
        if shapes and partner.copies and not _whole(planted):
            plant_set(open_dataset(narrowed), planted, shapes, partner.copies, seed)
        yield narrowed
        if partner.copies:
            yield planted
    if partner.phantoms:
        folder = out / "phantoms"
        if not _whole(folder):
            made = phantom_series(partner.phantoms, seed, structures=partner.annotated)
            ct_index.write(folder, made)
        yield folder
    if partner.strangers:
        folder = out / "strangers"
        if not _whole(folder):
            ct_index.write(folder, stranger_series(partner.strangers, seed, partner.annotated))
        yield folder


def _whole(folder: Path) -> bool:
    """Whether a set is there; half of one, which has no index yet, is taken away."""
    if ct_index.marks(folder):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False
