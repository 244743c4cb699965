"""Which model judges which case: the one that has not seen it, where there is one."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter, DataError
from imaging.resample import resample_nearest
from imaging.volume import Volume
from models.manifest import Manifest
from models.onnxfile import read_identity
from models.predict import predict
from models.scorer import Scorer
from models.store import default_store
from training.cases import Case, Loaded, load
from training.folds import folds
from training.package import onnx_finder, onnx_scorer
from training.runs import DESCRIPTION, MODEL, describe

# Whether a model saw a case: it was left out of its training, its data set is not among those it
# was trained on, or is, or that holds several cases and the manifest does not tell them apart.
Seen = Literal["left out", "not seen", "trained on", "perhaps trained on"]

# What else runs makes a run slower, never faster.
RUNS = 3


@dataclass(frozen=True)
class Subject:
    """A case and the model that judges it.

    Attributes:
        case: with its labels.
        model: the ``.onnx`` file.
        manifest, sha256: of the file.
        seen: whether the model was trained on the case.
    """

    case: Case
    model: Path
    manifest: Manifest
    sha256: str
    seen: Seen


@dataclass(frozen=True)
class Seconds:
    """What one prediction took: on the clock, and of the CPU over all its threads."""

    wall: float
    cpu: float


class Bench:
    """A subject at work: its case, its model and what they gave, each made once when asked for."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The case in memory."""
        return load(self.subject.case)

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The model on the CPU."""
        return onnx_scorer(self.subject.model)

    @functools.cached_property
    def finder(self) -> Scorer | None:
        """The model's finder, where it has one."""
        return onnx_finder(self.subject.model, self.subject.manifest)

    @functools.cached_property
    def untouched(self) -> tuple[NDArray[np.uint8], Seconds]:
        """Label map (Z, Y, X) of the case's own CT, and the least that one of some runs took."""
        walls, cpus = [], []
        for _ in range(RUNS):
            wall, cpu = time.perf_counter(), time.process_time()
            labels = self.segment(self.loaded.image).array
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        return labels, Seconds(min(walls), min(cpus))

    def segment(self, ct: Volume) -> Volume:
        """The label map that serving would give for a CT, on its grid."""
        return predict(ct, self.subject.manifest, self.scorer, finder=self.finder).labels

    def labels_on(self, ct: Volume, truth: Volume) -> NDArray[np.uint8]:
        """The label map of a CT on the grid of the labels that it is to be compared with."""
        found = self.segment(ct)
        same = truth.geometry.close_to(found.geometry)
        return found.array if same else resample_nearest(found, truth.geometry).array


def subjects(reference: str, cases: Sequence[Case]) -> list[Subject]:
    """Every case with the model that judges it.

    Args:
        reference: a folder of ``islet crossvalidate``, an ``.onnx`` file, or a model of the store.
        cases: of the data sets. Of a cross-validation's folder, those that a model left out.

    Raises:
        BadParameter: no case, or none that a model of the folder left out.
        DataError: a left-out model whose manifest names the case among its data.
        ModelNotFound, BadManifest, CorruptModel: no model, or one that is not what it says.
    """
    if not cases:
        raise BadParameter("There is no case to judge a model by; name data sets with --data.")
    place = Path(reference)
    if not place.is_dir():
        model = place if place.is_file() else default_store().resolve(reference).path
        return [_subject(case, model, cases) for case in cases]
    if (place / MODEL).is_file():
        return [_subject(case, place / MODEL, cases) for case in cases]
    judges = _left_out(place, cases)
    if not judges:
        raise BadParameter(
            f"{place} holds no model that left out one of {', '.join(c.name for c in cases)}; name "
            "a folder of islet crossvalidate over the same data, or one model."
        )
    return [_honest(_subject(c, judges[c.name], cases)) for c in cases if c.name in judges]


def _left_out(place: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """The finished model that left out each case, by the case's name."""
    runs = [run for run in place.iterdir() if (run / DESCRIPTION).is_file()]
    found = {run.name: run / MODEL for run in runs if (run / MODEL).is_file()}
    parts = [name for name in found if name.startswith("fold-")]
    names = [case.name for case in cases if case.split == "train"]
    if parts and not set(names) & set(found):
        count = max(int(name.removeprefix("fold-")) for name in parts)
        divided = folds(names, count, describe(place / parts[0]).recipe.seed)
        return {
            name: found[f"fold-{index}"]
            for index, part in enumerate(divided, 1)
            if f"fold-{index}" in found
            for name in part
        }
    return {name: found[name] for name in names if name in found}


def _subject(case: Case, model: Path, cases: Sequence[Case]) -> Subject:
    manifest, sha256 = read_identity(model)
    named = {entry.get("name") for entry in manifest.provenance.data}
    same = sum(other.source.get("name") == case.source.get("name") for other in cases)
    seen: Seen = "not seen"
    if case.source.get("name") in named - {None}:
        seen = "trained on" if same == 1 else "perhaps trained on"
    return Subject(case, model, manifest, sha256, seen)


def _honest(subject: Subject) -> Subject:
    """A left-out subject, unless its model says that it saw the case."""
    if subject.seen == "trained on":
        raise DataError(
            f"{subject.model} is said to have left out {subject.case.name}, but its manifest names "
            f"{subject.case.source.get('name')!r} among its data; train the folds again.",
            case=subject.case.name,
        )
    return Subject(subject.case, subject.model, subject.manifest, subject.sha256, "left out")
