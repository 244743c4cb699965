"""The networks of several trainings, such as a recipe's folds, as one model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from imaging.errors import BadParameter, DataError
from models.architectures.ensemble import Ensemble
from models.manifest import Provenance
from training import checkpoint
from training.package import export_recipe
from training.pretraining import weights_of
from training.runs import Exported, Run, describe
from training.trainer import initial_network


def export_ensemble(
    runs: Sequence[Path], onnx: Path, scores: dict[str, Any] | None = None
) -> Exported:
    """Export the mean of finished trainings of one recipe as a single model.

    It takes as long as all its networks together, and is as large.

    Args:
        runs: two folders of runs or more; only the seed of their recipes may differ.
        onnx: the file to write.
        scores: to keep in the manifest.

    Raises:
        BadParameter: one run, one named twice, or networks with a dynamic head.
        DataError: no finished run there, or one of another recipe.
    """
    if len({run.resolve() for run in runs}) != len(runs) or len(runs) < 2:
        named = ", ".join(map(str, runs)) or "none"
        raise BadParameter(f"An ensemble is of two runs or more, each named once; named: {named}.")
    described = [describe(run) for run in runs]
    first = described[0].recipe
    if first.tasks:
        raise BadParameter(
            f"The networks of {first.name} have a dynamic head, which makes no ensemble; export "
            "the runs one by one."
        )
    for folder, run in zip(runs, described, strict=True):
        _refuse_another(run, described[0], folder)
    networks = [_network(run, folder) for run, folder in zip(described, runs, strict=True)]
    whole = Ensemble(networks, "softmax" if first.activation == "softmax" else "sigmoid")
    provenance = _of_all([run.provenance for run in described])
    return Exported(onnx, *export_recipe(whole, first, provenance, onnx, (), scores))


def _network(run: Run, folder: Path) -> nn.Module:
    network = initial_network(run.recipe)
    network.load_state_dict(checkpoint.load(weights_of(folder)).network)
    return network


def _refuse_another(run: Run, first: Run, folder: Path) -> None:
    fields, expected = (
        {**json.loads(r.recipe.to_json()), "scope": r.provenance.scope} for r in (run, first)
    )
    other = sorted(name for name in expected if fields[name] != expected[name] and name != "seed")
    if other:
        raise DataError(
            f"{folder} was trained with another {', '.join(other)} than the first run; an ensemble "
            "is of one recipe."
        )


def _of_all(found: Sequence[Provenance]) -> Provenance:
    """One provenance for several networks: the steps of all, and what all have in common.

    A data set is listed once. Which cases of it a network learnt from is not kept, so ``cases`` is
    the most that one network saw, and ``cases_by_network`` says it of each.
    """
    counts: dict[str, list[int]] = {}
    for index, one in enumerate(found):
        for entry in one.data:
            named = {name: value for name, value in entry.items() if name != "cases"}
            counted = counts.setdefault(json.dumps(named, sort_keys=True), [0] * len(found))
            counted[index] += entry["cases"]
    return dataclasses.replace(
        found[0],
        site=_common(one.site for one in found),
        round=_common(one.round for one in found),
        job=_common(one.job for one in found),
        data=tuple(
            {**json.loads(named), "cases": max(counted), "cases_by_network": counted}
            for named, counted in counts.items()
        ),
        seed=_common(one.seed for one in found),
        steps=sum(one.steps or 0 for one in found),
        software={
            name: ", ".join(sorted({one.software.get(name, "unknown") for one in found}))
            for name in sorted({name for one in found for name in one.software})
        },
        created=max(one.created or "" for one in found) or None,
    )


def _common(values: Iterable[Any]) -> Any:
    """What all are, ``None`` where they differ."""
    first, *others = values
    return first if all(other == first for other in others) else None
