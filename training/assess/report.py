"""The Markdown of an assessment: sections that the report and the model card share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.assess import planted, robustness, tables
from training.assess.planted import Rate
from training.assess.run import ROBUSTNESS, SENSITIVITY, TRADE_OFF, Assessed, compared
from training.assess.subjects import RUNS
from training.evaluate import table
from training.reproduce.tables import markdown
from training.statistics import bootstrap_interval

_SEED = 0
NOT_MEASURED = "Not measured."


def report(found: Assessed) -> str:
    """The whole assessment as one page; plots and pictures are named by their place beside it."""
    parts = [
        f"# Assessment of {found.name}",
        judges(found),
        f"## Scores\n\n{scores(found)}",
        f"## Planted lesions\n\n{lesions(found)}",
        f"## Robustness\n\n{changes(found)}",
        f"## Speed\n\n{speed(found)}",
        f"## Failures\n\n{failures(found)}",
        f"## How this was made\n\n{made_by(found)}",
    ]
    return "\n\n".join(parts) + "\n"


def judges(found: Assessed) -> str:
    """Which model judged which case, and what the labels are worth."""
    about = found.record.figures["models"][found.name]
    ways = sorted({case["seen"] for case in about.values()})
    sentences = {
        "left out": "Each case is judged by a model that was trained without it.",
        "not seen": "The model's manifest names none of these data sets among its data.",
        "trained on": "**The model was trained on these very cases: the scores flatter it.**",
        "perhaps trained on": "The model was trained on one of these data sets: a case may be one "
        "that it learned from.",
    }
    if len(ways) == 1:
        text = sentences[ways[0]]
    else:
        text = "Whether a model has seen a case differs from case to case: see the table."
    rows = [
        [name, case["seen"], case["source"].get("labels", "not stated"), case["sha256"][:12]]
        for name, case in about.items()
    ]
    return f"{text}\n\n" + markdown(["case", "to its model", "how it was labelled", "file"], rows)


def scores(found: Assessed) -> str:
    """Dice, surface Dice and volume errors per case and structure."""
    figures = found.record.of("tables", found.name)
    if not figures:
        return NOT_MEASURED
    listed = tables.scores_of(figures)
    by_case = [float(np.mean([s.dice for s in listed if s.case == case])) for case in figures]
    low, high = bootstrap_interval(by_case, _SEED)
    named = f"Surface Dice at {tables.TOLERANCE_MM:g} mm"
    return "\n\n".join(
        [
            "An organ's score is of the organ with its lesions, on the CT's own grid.",
            f"Dice\n\n{table(listed)}",
            f"Mean over each case's structures {np.mean(by_case):.3f} (95 % bootstrap interval "
            f"over {len(by_case)} cases {low:.3f} to {high:.3f}).",
            f"{named}\n\n{table(listed, 'surface_dice')}",
            f"Volume, predicted minus labelled, ml (% of the labelled)\n\n{_volumes(figures)}",
        ]
    )


def lesions(found: Assessed) -> str:
    """Sensitivity by size, and lesions on the untouched CTs."""
    figures = found.record.of("planted", found.name)
    if not figures:
        return NOT_MEASURED
    listed = [lesion for case in figures.values() for lesion in case["lesions"]]
    if not listed:
        return "No lesion could be planted: the model gives no lesion, or no organ has room."
    already = sum(bool(lesion["already"]) for lesion in listed)
    return "\n\n".join(
        [
            "**These are no real lesions.** Shapes of real ones that no training has seen are "
            "planted into each CT, their texture and contrast made; the CTs are taken as free of "
            "others, which nobody checked. Found means that the prediction of the same kind covers "
            f"over {planted.OVERLAP:g} of the lesion and that the Dice of both is over "
            f"{planted.OVERLAP:g}. {already} of {len(listed)} lie where the untouched CT's "
            "prediction has such a lesion already, and count as not found. In brackets Wilson's "
            f"95 % interval. {_believed(found)}",
            _rates(planted.by_size(listed)),
            "By any lesion kind of the same organ:",
            _rates(planted.by_size(listed, "any_found")),
            f"![Found by size]({SENSITIVITY})",
            "Lesions predicted on the untouched CTs, number (ml):",
            _untouched(figures),
        ]
    )


def _believed(found: Assessed) -> str:
    """Whether what is doubtful was left out, and what that rests on."""
    about = found.record.figures["models"][found.name].values()
    if not all(case.get("calibrated") for case in about):
        return "Nothing was left out for want of confidence."
    return (
        "What has less confidence than the model asks for is left out, as the service does; the "
        "confidences may have been fitted on these cases, each with a model that had not seen it."
    )


def changes(found: Assessed) -> str:
    """Mean Dice by structure for every strength of every change."""
    figures = found.record.of("robustness", found.name)
    if not figures:
        return NOT_MEASURED
    blocks = [
        "Each CT is changed at its own resolution. Mean Dice over the cases; of a structure that a "
        "cut or a smaller field leaves less than a tenth of, nothing is scored.",
        f"![Dice under changes of the CT]({ROBUSTNESS})",
    ]
    for series, names in robustness.curves(figures).items():
        strengths = sorted({strength for points in names.values() for strength in points})
        rows = [
            [name, *(_mean_cell(points.get(strength)) for strength in strengths)]
            for name, points in names.items()
        ]
        title = robustness.SERIES[series].title
        blocks.append(markdown([title, *(f"{strength:g}" for strength in strengths)], rows))
    return "\n\n".join(blocks)


def speed(found: Assessed) -> str:
    """Seconds a CT, and the trade-off with Dice where other models were judged too."""
    figures = found.record.of("tables", found.name)
    if not figures:
        return NOT_MEASURED
    machine = found.record.figures["machine"]
    rows = [
        [
            name,
            "x".join(str(n) for n in case["shape"][::-1]),
            f"{case['seconds']['wall']:.2f}",
            f"{case['seconds']['cpu']:.2f}",
        ]
        for name, case in figures.items()
    ]
    blocks = [
        f"From CT to label map in memory on {machine['cores']} cores ({machine['processor']}), "
        f"ONNX Runtime {machine['onnxruntime']}: the least of {RUNS} runs.",
        markdown(["case", "voxels", "seconds, clock", "seconds, CPU"], rows),
    ]
    if found.beside and (models := compared(found)):
        rows = [
            [m.name, f"{np.mean(m.dice):.3f}", f"{np.mean(m.seconds):.2f}", str(len(m.dice))]
            for m in models
        ]
        blocks += [
            "Beside other models, on the cases and structures that all were judged on:",
            markdown(["model", "mean Dice", "CPU seconds a CT", "cases"], rows),
            f"![Dice against CPU seconds]({TRADE_OFF})",
        ]
    return "\n\n".join(blocks)


def failures(found: Assessed) -> str:
    """The gallery's captions, each with its picture."""
    figures = found.record.of("gallery", found.name)
    pictures = [picture for case in figures.values() for picture in case["pictures"]]
    if not pictures:
        return NOT_MEASURED
    return "\n".join(f"- [{p['caption']}]({p['file']}) ({p['kind']})" for p in pictures)


def made_by(found: Assessed) -> str:
    """The command and what it ran on."""
    figures = found.record.figures
    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    return f"```sh\n{figures['command']}\n```\n\n{machine}."


def _volumes(figures: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(s["structure"] for c in figures.values() for s in c["scores"]))
    rows = []
    for case, found in figures.items():
        cells = {
            s["structure"]: _volume_cell(s["volume_error_ml"], s["truth_ml"])
            for s in found["scores"]
        }
        rows.append([case, *(cells.get(name, "–") for name in names)])
    return markdown(["case", *names], rows)


def _volume_cell(error: float, truth: float) -> str:
    return f"{error:+.0f} ({error / truth:+.0%})" if truth else f"{error:+.0f}"


def _rates(rates: Mapping[str, Mapping[str, Rate]]) -> str:
    header = ["", *next(iter(rates.values()))]
    rows = [[kind.replace("_", " "), *map(_rate, sizes.values())] for kind, sizes in rates.items()]
    return markdown(header, rows)


def _rate(rate: Rate) -> str:
    if not rate.of:
        return "–"
    low, high = rate.interval
    return f"{rate.found}/{rate.of} ({low:.2f} to {high:.2f})"


def _untouched(figures: Mapping[str, Any]) -> str:
    kinds = list(dict.fromkeys(kind for case in figures.values() for kind in case["untouched"]))
    rows = [
        [case, *(_parts_cell(found["untouched"].get(kind)) for kind in kinds)]
        for case, found in figures.items()
    ]
    means = [
        float(np.mean([len(case["untouched"].get(kind, ())) for case in figures.values()]))
        for kind in kinds
    ]
    rows.append(["**a case**", *(f"{mean:.2f}" for mean in means)])
    return markdown(["case", *(kind.replace("_", " ") for kind in kinds)], rows)


def _parts_cell(volumes: Sequence[float] | None) -> str:
    if volumes is None:
        return "–"
    return f"{len(volumes)} ({sum(volumes):.1f})" if volumes else "0"


def _mean_cell(values: Sequence[float] | None) -> str:
    return "–" if not values else f"{np.mean(values):.3f}"
