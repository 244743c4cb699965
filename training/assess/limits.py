"""What a model is known to be bad at, in sentences that follow from the figures alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.labels import BY_NAME
from training.assess import planted, robustness, tables
from training.assess.run import Assessed

# Below this mean Dice a structure is called weak; a change that costs more than this is told.
_WEAK_DICE, _LOST_DICE = 0.8, 0.1


def limits(found: Assessed) -> list[str]:
    """Sentences, each with its figures; never empty."""
    return [*_structures(found), *_lesions(found), *_changes(found), *_never_tried(found)]


def _structures(found: Assessed) -> Iterator[str]:
    listed = tables.scores_of(found.record.of("tables", found.name))
    for name in dict.fromkeys(score.structure for score in listed):
        own = [score for score in listed if score.structure == name]
        mean = float(np.mean([score.dice for score in own]))
        if mean < _WEAK_DICE:
            worst = min(own, key=lambda score: score.dice)
            yield (
                f"Weak on {_words(name)}: mean Dice {mean:.3f}, lowest {worst.dice:.3f} on "
                f"{worst.case}."
            )


def _lesions(found: Assessed) -> Iterator[str]:
    figures = found.record.of("planted", found.name)
    listed = [lesion for case in figures.values() for lesion in case["lesions"]]
    for kind, sizes in planted.by_size(listed).items() if listed else ():
        if kind != "all":
            whole = sizes["all"]
            yield (
                f"Of {whole.of} planted lesions of the kind {_words(kind)} "
                f"{whole.of - whole.found} are missed ({1 - whole.share:.0%})."
            )
    invented = sum(len(ml) for case in figures.values() for ml in case["untouched"].values())
    if figures:
        yield (
            f"{invented} lesions are predicted on {len(figures)} CTs that are taken as free of "
            f"them, {invented / len(figures):.1f} a CT."
        )


def _changes(found: Assessed) -> Iterator[str]:
    """The mildest strength of each change at which a structure loses more than a tenth."""
    curves = robustness.curves(found.record.of("robustness", found.name))
    for series, names in curves.items():
        none = robustness.SERIES[series].none
        for name, points in names.items():
            plain = float(np.mean(points[none]))
            lost = [s for s, v in points.items() if np.mean(v) < plain - _LOST_DICE]
            if lost:
                mildest = min(lost, key=lambda strength: abs(strength - none))
                yield (
                    f"{robustness.SERIES[series].title} {mildest:g}: mean Dice of {_words(name)} "
                    f"{np.mean(points[mildest]):.3f} instead of {plain:.3f}."
                )


def _never_tried(found: Assessed) -> Iterator[str]:
    listed = tables.scores_of(found.record.of("tables", found.name))
    outputs = found.record.figures["outputs"][found.name]
    scored = {score.structure for score in listed}
    unseen = [name for name in outputs if name not in scored]
    lesions = [name for name in unseen if BY_NAME[name].parent]
    if lesions:
        yield (
            "No real lesion was scored: nothing says how the model does on real "
            f"{', '.join(map(_words, lesions))}. Do not rely on these masks, found or not."
        )
    organs = [name for name in unseen if name not in lesions]
    if listed and organs:
        yield f"Not scored at all: {', '.join(map(_words, organs))}."
    cases = len(found.record.figures["models"][found.name])
    yield f"{cases} CTs are few: another hospital's may fail in ways that none of them shows."


def _words(name: str) -> str:
    return name.replace("_", " ")
