"""``islet calibrate``: observe, fit, and say how well the fit does on cases it has not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from models.confidence import confidence_of, is_lesion, probability
from models.labels import BY_NAME
from models.manifest import Calibration, Manifest
from models.onnxfile import read_manifest, redescribe
from training.assess.subjects import Subject, subjects
from training.calibration.copies import Copy, copies_of, phantom_copies, planted_copies, strangers
from training.calibration.fit import (
    FOUND,
    WRONG,
    calibration_error,
    fit_temperature,
    fit_trust,
)
from training.calibration.observe import Observation, Voxels, observe, sample
from training.cases import Case, Loaded, load
from training.package import onnx_finder, onnx_scorer
from training.planting import Shapes

F64 = NDArray[np.float64]

# Voxels of a copy that the temperature is fitted on.
_VOXELS = 20_000


@dataclass(frozen=True)
class Judgement:
    """An observation with what a fit on the other cases makes of it; none where that has none."""

    seen: Observation
    confidence: float
    kept: bool


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A fit, and how it does.

    Attributes:
        calibration: fitted on all cases; its ``fitted`` holds the figures.
        judgements: of every observation, by a fit that has not seen its case.
        voxels: probability at temperature 1, at that of the other cases, and 1 where the label is
            right (3, N).
    """

    calibration: Calibration
    judgements: tuple[Judgement, ...]
    voxels: F64


def calibrate(
    reference: str,
    cases: Sequence[Case],
    shapes: Shapes | None = None,
    planted: int = 4,
    phantoms: int = 4,
    seed: int = 0,
) -> Calibrated:
    """Fit the confidences of a recipe's models on cases that they have not seen.

    Args:
        reference: a folder of ``islet crossvalidate``, or a model that saw none of the cases.
        cases: labelled, pseudo-labels too: a confidence is then how far those are met.
        shapes: of real lesions that no training saw, planted into the cases.
        planted, phantoms: copies with lesions for each case.
        seed: of everything random.

    Raises:
        BadParameter: fewer than two cases, a model that saw one, or models of several kinds.
    """
    found = subjects(reference, cases)
    _check(found)
    rng = np.random.default_rng(seed)
    made = [(s, load(s.case), np.random.default_rng(rng.integers(2**63))) for s in found]
    voxels = [v for one in made for v in _sampled(*one)]
    manifest = found[0].manifest
    temperature = fit_temperature(voxels, manifest)
    observations = [
        o for one in made for o in _observed(*one, temperature, shapes, planted, phantoms)
    ]
    judgements = [j for s in found for j in _left_out(s.case.name, observations, manifest)]
    trust = fit_trust(observations, manifest.outputs)
    figures = _figures(judgements, manifest.outputs)
    crossed = _crossed(voxels, manifest)
    fitted = {
        "cases": [s.case.name for s in found],
        "labels": sorted({str(s.case.source.get("labels", "not said")) for s in found}),
        "observations": len(observations),
        "voxel_error_before": round(calibration_error(crossed[0], crossed[2]), 4),
        "voxel_error_after": round(calibration_error(crossed[1], crossed[2]), 4),
        **figures,
    }
    return Calibrated(Calibration(temperature, trust, fitted), tuple(judgements), crossed)


def put_into(path: Path, calibration: Calibration) -> Manifest:
    """Write a calibration into an ONNX file's manifest; the graph stays as it is.

    Raises:
        BadManifest, CorruptModel: the file is none that describes itself.
        BadParameter: a calibration of other structures.
    """
    manifest = read_manifest(path)
    foreign = [t.structure for t in calibration.trust if t.structure not in manifest.outputs]
    if foreign:
        raise BadParameter(
            f"The calibration is of {foreign[0]}, which {path.name} does not look for; calibrate "
            "with models of the same recipe."
        )
    return redescribe(path, calibration=calibration)


def _check(found: Sequence[Subject]) -> None:
    seen = [s.case.name for s in found if s.seen in ("trained on", "perhaps trained on")]
    if seen:
        raise BadParameter(
            f"The model was trained on {', '.join(seen)}, or may have been; calibrate with a "
            "folder of islet crossvalidate, or on other cases."
        )
    if len(found) < 2:
        raise BadParameter(
            f"{len(found)} case is too few: a calibration is judged on cases left out of it."
        )
    if len({(s.manifest.outputs, s.manifest.activation) for s in found}) > 1:
        raise BadParameter("The models look for different structures; name runs of one recipe.")


def _sampled(subject: Subject, case: Loaded, rng: np.random.Generator) -> list[Voxels]:
    """Of the case as it is, and of every third copy: all would take as long as what follows."""
    scorer = onnx_scorer(subject.model)
    copies = list(copies_of(case, subject.manifest.sampling, np.random.default_rng(0)))[::3]
    return [sample(case.name, c, subject.manifest, scorer, _VOXELS, rng) for c in copies]


def _observed(
    subject: Subject,
    case: Loaded,
    rng: np.random.Generator,
    temperature: float,
    shapes: Shapes | None,
    planted: int,
    phantoms: int,
) -> list[Observation]:
    """Of every copy at a temperature; planted lesions and phantoms say nothing of organs.

    Phantoms' organs are those that were trained on, and planted copies' are the case's own.
    """
    sampling = subject.manifest.sampling
    manifest = dataclasses.replace(subject.manifest, calibration=Calibration(temperature))
    scorer, finder = onnx_scorer(subject.model), onnx_finder(subject.model, subject.manifest)

    def seen(copy: Copy) -> list[Observation]:
        return list(observe(case.name, copy, manifest, scorer, finder))

    own = copies_of(case, sampling, rng, lesion_free=shapes is not None)
    found = [o for copy in own for o in seen(copy)]
    found += [o for copy in strangers(case, sampling, rng, manifest.outputs) for o in seen(copy)]
    lesions = list(phantom_copies(sampling, phantoms, rng))
    if shapes is not None:
        lesions += planted_copies(case, shapes, planted, rng)
    return found + [o for c in lesions for o in seen(c) if is_lesion(BY_NAME[o.structure])]


def _left_out(
    case: str, observations: Sequence[Observation], manifest: Manifest
) -> list[Judgement]:
    """The observations of a case, judged by a fit on the other cases."""
    others = [o for o in observations if o.case != case]
    trust = {t.structure: t for t in fit_trust(others, manifest.outputs)}
    found = []
    for seen in observations:
        if seen.case == case and seen.structure in trust:
            confidence = confidence_of(seen.evidence, trust[seen.structure])
            kept = confidence >= trust[seen.structure].least
            found.append(Judgement(seen, confidence, kept))
    return found


def _figures(judgements: Sequence[Judgement], outputs: Sequence[str]) -> dict[str, Any]:
    """Calibration errors by structure, and what the bounds keep and drop."""
    rows = {}
    for name in outputs:
        own = [j for j in judgements if j.seen.structure == name]
        if not own:
            continue
        outcome = np.array([j.seen.outcome for j in own])
        kept = np.array([j.kept for j in own])
        rows[name] = {
            "observations": len(own),
            "error_before": _rounded(_error([j.seen.evidence.probability for j in own], outcome)),
            "error_after": _rounded(_error([j.confidence for j in own], outcome)),
            "there": int((outcome >= FOUND).sum()),
            "there_kept": int((kept & (outcome >= FOUND)).sum()),
            "wrong": int((outcome <= WRONG).sum()),
            "wrong_dropped": int((~kept & (outcome <= WRONG)).sum()),
        }
    return {"structures": rows, "strangers": _strangers(judgements)}


def _strangers(judgements: Sequence[Judgement]) -> dict[str, int]:
    """CTs without an abdomen in which something was marked, and in how many all of it was dropped.

    Those in which nothing was marked need no bound, and are not counted.
    """
    kept: dict[tuple[str, str], bool] = {}
    for j in judgements:
        if j.seen.stranger:
            key = (j.seen.case, j.seen.copy)
            kept[key] = kept.get(key, False) or j.kept
    return {"marked": len(kept), "emptied": sum(not k for k in kept.values())}


def _crossed(voxels: Sequence[Voxels], manifest: Manifest) -> F64:
    """See :class:`Calibrated`."""
    found = []
    for case in dict.fromkeys(v.case for v in voxels):
        temperature = fit_temperature([v for v in voxels if v.case != case], manifest)
        for v in (v for v in voxels if v.case == case):
            before, after = (
                probability(v.scores, v.labels, manifest, t) for t in (1.0, temperature)
            )
            found.append(np.stack([before, after, v.right]).astype(np.float64))
    return np.concatenate(found, axis=1)


def _error(confidence: Sequence[float], outcome: F64) -> float:
    # Some ten observations a bin, so that few are not torn into bins of one.
    return calibration_error(np.array(confidence), outcome, max(1, min(10, len(outcome) // 10)))


def _rounded(value: float) -> float:
    return round(value, 4)
