"""Splits of cases: the same on every machine, whatever order the names come in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from imaging.errors import BadParameter


def folds(
    names: Sequence[str], count: int, seed: int = 0, groups: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """Disjoint parts that cover all names, as equal in size as the groups allow.

    Without groups the sizes differ by one at most.

    Args:
        names: of the cases, each once.
        count: of folds, at least 2.
        seed: another seed, another division.
        groups: the patient of each case, or whatever must not be split.

    Returns:
        The folds, the names in each sorted.

    Raises:
        BadParameter: fewer groups than folds, a name twice, or one without a group.
    """
    together = _together(names, seed, groups)
    if not 2 <= count <= len(together):
        raise BadParameter(
            f"{len(together)} cases or groups of cases make from 2 to {len(together)} folds, not "
            f"{count}."
        )
    found: list[list[str]] = [[] for _ in range(count)]
    # The largest first: what comes last evens out.
    for group in sorted(together, key=len, reverse=True):
        min(found, key=len).extend(group)
    return [tuple(sorted(fold)) for fold in found]


def hold_out(
    names: Sequence[str], part: float, seed: int = 0, groups: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Set a part of the cases aside, as MoNet's loader does 30 % and then 10 % of the rest.

    Which cases those are is not published; these are others.

    Args:
        names: of the cases, each once.
        part: of the names to set aside, over 0 and under 1; rounded to whole cases, one at least.
        seed: another seed, another split.
        groups: the patient of each case, or whatever must not be split. A group that would make
            the part too large is not set aside.

    Returns:
        The names that stay and those set aside, both sorted.

    Raises:
        BadParameter: a part that leaves one side empty, a name twice, or one without a group.
    """
    if not 0 < part < 1:
        raise BadParameter(f"The part to set aside must be over 0 and under 1, not {part}.")
    together = _together(names, seed, groups)
    wanted = max(1, round(part * len(names)))
    aside: list[str] = []
    for group in together:
        if len(aside) + len(group) <= wanted:
            aside += group
    if not 0 < len(aside) < len(names):
        raise BadParameter(
            f"A part of {part} of {len(names)} cases in {len(together)} groups leaves one side "
            "empty; name another part or more cases."
        )
    return tuple(sorted(set(names) - set(aside))), tuple(sorted(aside))


def _together(
    names: Sequence[str], seed: int, groups: Mapping[str, str] | None
) -> list[tuple[str, ...]]:
    """Names that stay together, in an order that hangs on the seed and the names alone."""
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise BadParameter(f"Cases {double} are named more than once; name each once.")
    alone = sorted(set(names) - set(groups)) if groups is not None else []
    if alone:
        raise BadParameter(f"Cases {alone} have no group; name the group of each case or of none.")
    members: dict[str, list[str]] = {}
    for name in sorted(names):
        members.setdefault(groups[name] if groups is not None else name, []).append(name)
    # A digest and no generator: numpy may change a generator's stream with its version.
    return sorted(
        (tuple(group) for group in members.values()),
        key=lambda group: hashlib.sha256(f"{seed}/{group[0]}".encode()).digest(),
    )
