"""``islet finder``: a finder comes into models' files when left-out cases show what it costs.

A crop is seen by other patches than the whole, and a network whose norms are those of each patch
gives other masks there, no better and no worse. So it is the labels that judge, on cases that
neither the model nor the finder was trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from models.finder import described
from models.manifest import Manifest
from models.onnxfile import read_manifest, redescribe
from models.predict import predict
from models.scorer import Scorer
from training.assess.subjects import Subject, subjects
from training.cases import Case, Loaded, load
from training.metrics import dice, judgeable, mask_of, scorable
from training.package import onnx_scorer

# By so much the mean Dice of a structure may fall.
LOSS = 0.002


@dataclass(frozen=True)
class Spared:
    """What finders do for models on cases that neither has seen.

    Attributes:
        whole, part: the mean Dice of each structure with all of the CT visited, and with the
            finder.
        visited: part of the network's voxels that is still visited, the mean of all cases.
        everywhere: in how many of them everything is, since the finder was not sure.
        cases: their names.
        margin_mm: around what the finder finds.
    """

    whole: dict[str, float]
    part: dict[str, float]
    visited: float
    everywhere: int
    cases: tuple[str, ...]
    margin_mm: float

    @property
    def loss(self) -> float:
        """The largest fall of any structure's mean Dice."""
        return max(self.whole[name] - self.part[name] for name in self.whole)


def judge(models: str, finders: str, cases: Sequence[Case], margin_mm: float) -> Spared:
    """See what finders spare and cost.

    Args:
        models, finders: each a folder of ``islet crossvalidate``, or a model that saw no case.
        cases: labelled; those that both left out are judged.
        margin_mm: around what the finder finds.

    Raises:
        BadParameter: no case that neither saw, none with a structure to score, or a network that
            cannot be the other's finder.
        ModelNotFound, BadManifest, CorruptModel: of the files.
    """
    glances = {s.case.name: s for s in _unseen(finders, cases)}
    pairs = [(s, glances[s.case.name]) for s in _unseen(models, cases) if s.case.name in glances]
    found = [_compared(model, glance, margin_mm) for model, glance in pairs]
    rows = [row for one in found for row in one.rows]
    if not rows:
        raise BadParameter(
            "No case that neither the models nor the finders saw has a structure to score; name "
            "two folders of islet crossvalidate over the same data."
        )
    names = dict.fromkeys(name for name, _, _ in rows)
    means = {
        name: np.mean([scores for other, *scores in rows if other == name], axis=0)
        for name in names
    }
    return Spared(
        {name: round(float(mean[0]), 4) for name, mean in means.items()},
        {name: round(float(mean[1]), 4) for name, mean in means.items()},
        float(np.mean([one.visited for one in found])),
        sum(one.visited >= 1 for one in found),
        tuple(model.case.name for model, _ in pairs),
        margin_mm,
    )


def attach(path: Path, finder: Path, spared: Spared) -> Manifest:
    """Put a finder into a model's file, and into its manifest what finders like it spare.

    Args:
        path: a file that describes itself.
        finder: another one, of the recipe that was judged.
        spared: of :func:`judge`.

    Raises:
        BadParameter: a structure's mean Dice falls by more than ``LOSS``, or one network cannot be
            the other's finder; the file is as it was.
        BadManifest, CorruptModel: of the files.
    """
    if spared.loss > LOSS:
        raise BadParameter(
            f"With {spared.margin_mm:g} mm around what the finder finds, a structure's mean Dice "
            f"falls by {spared.loss:.4f}, at most {LOSS} is allowed; raise --margin.",
            loss=spared.loss,
        )
    data = finder.read_bytes()
    made = described(read_manifest(path), read_manifest(finder), data)
    fitted = {**dataclasses.asdict(spared), "cases": list(spared.cases)}
    made = dataclasses.replace(made, margin_mm=spared.margin_mm, fitted=fitted)
    return redescribe(path, data, finder=made)


def table(spared: Spared) -> str:
    """A Markdown table, a row a structure, and a sentence on what is spared."""
    lines = ["| structure | all visited | with the finder |", "|---|---|---|"]
    lines += [f"| {n} | {dice:.4f} | {spared.part[n]:.4f} |" for n, dice in spared.whole.items()]
    said = (
        f"Mean Dice over {', '.join(spared.cases)}. With {spared.margin_mm:g} mm around what the "
        f"finder finds, {spared.visited:.0%} of the voxels are visited (everything in "
        f"{spared.everywhere} of {len(spared.cases)})."
    )
    return "\n".join([*lines, "", said])


@dataclass(frozen=True)
class _Compared:
    """Of one case: (structure, Dice of the whole, Dice with the finder), and the part visited."""

    rows: tuple[tuple[str, float, float], ...]
    visited: float


def _unseen(reference: str, cases: Sequence[Case]) -> Iterator[Subject]:
    for subject in subjects(reference, cases):
        if subject.seen in ("trained on", "perhaps trained on"):
            raise BadParameter(
                f"{subject.model} was trained on {subject.case.name}, or may have been; a finder "
                "is judged on cases that it and the model have not seen."
            )
        yield subject


def _compared(model: Subject, glance: Subject, margin_mm: float) -> _Compared:
    made = described(model.manifest, glance.manifest, glance.model.read_bytes())
    finder = dataclasses.replace(made, margin_mm=margin_mm)
    manifest = dataclasses.replace(model.manifest, finder=finder)
    case, counting = load(model.case), _Counting(onnx_scorer(model.model))
    whole = _labels(case, manifest, counting, None)
    voxels = counting.counted()
    part = _labels(case, manifest, counting, onnx_scorer(glance.model))
    truth = case.labels.array
    names = scorable(manifest.outputs, case.annotated)
    before, after = (
        [dice(mask_of(found, n), mask_of(truth, n)) for n in names]
        for found in (judgeable(whole, truth), judgeable(part, truth))
    )
    rows = tuple(zip(names, before, after, strict=True))
    return _Compared(rows, counting.counted() / voxels)


def _labels(
    case: Loaded, manifest: Manifest, scorer: Scorer, finder: Scorer | None
) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = predict(case.image, manifest, scorer, finder=finder).labels.array
    return found


class _Counting:
    """A network that counts the voxels that it visits."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._voxels = scorer, 0

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        self._voxels += patches.size
        return self._scorer(patches)

    def counted(self) -> int:
        """The voxels since the last time that somebody asked."""
        voxels, self._voxels = self._voxels, 0
        return voxels
