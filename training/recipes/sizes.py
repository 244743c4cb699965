"""The dial that makes a paper's training small: it turns sizes and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from imaging.errors import BadParameter
from training.recipe import SCALES, Recipe, Scale

# Resolution, patch, width and length. Losses, sampling, schedule and augmentation stay the paper's.
_SIZES = {"sampling", "patch", "options", "batch", "steps", "steps_per_epoch"}


def sized(
    paper: Recipe, scale: Scale, *, tiny: Mapping[str, Any], small: Mapping[str, Any]
) -> Recipe:
    """A paper's recipe at a scale.

    Args:
        paper: the recipe as published.
        scale: ``tiny`` trains on two cores in minutes, ``small`` in an hour, ``paper`` is what
            the paper did.
        tiny, small: fields of the recipe that are sizes; ``options`` are added to the paper's.

    Raises:
        BadParameter: no such scale, or a field that is no size.
    """
    if scale not in SCALES:
        raise BadParameter(f"scale must be one of {', '.join(SCALES)}, not {scale!r}.")
    if scale == "paper":
        return paper
    changes = dict(tiny if scale == "tiny" else small)
    other = set(changes) - _SIZES
    if other:
        raise BadParameter(f"{sorted(other)} of {paper.name} are no sizes; a scale keeps them.")
    changes["options"] = {**paper.options, **changes.get("options", {})}
    return dataclasses.replace(paper, scale=scale, **changes)
