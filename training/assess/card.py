"""The model card: what a released model is, made of its manifest and its assessment alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from imaging.errors import DataError
from models.manifest import Manifest
from models.onnxfile import parse, read_identity
from models.store import default_store
from training.assess import report
from training.assess.cost import Power, training_seconds
from training.assess.gallery import FOLDER, SHEET
from training.assess.limits import limits
from training.assess.run import Assessed
from training.reproduce.tables import markdown


@dataclass(frozen=True)
class Release:
    """What a card is about.

    Attributes:
        model: the ``.onnx`` file.
        reference: as people name it, such as ``starter@2``.
        runs: folders of the trainings behind it, for their seconds.
        power: turns seconds into CO2.
        reliability: the PNG that ``islet calibrate`` drew; beside the card under that name.
    """

    model: Path
    reference: str
    runs: tuple[Path, ...] = ()
    power: Power = field(default_factory=Power)
    reliability: Path | None = None

    @classmethod
    def of(
        cls,
        reference: str,
        runs: Sequence[Path] = (),
        power: Power | None = None,
        reliability: Path | None = None,
    ) -> Release:
        """A model of the store, or a file that will be its name's live version.

        Raises:
            ModelNotFound: neither.
        """
        file = Path(reference)
        if file.is_file():
            name = f"{read_identity(file)[0].name}@live"
        else:
            file, name = default_store().resolve(reference).path, reference
        return cls(file, name, tuple(runs), power or Power(), reliability)


def card(found: Assessed, release: Release) -> str:
    """The card of a released model as Markdown; every figure is from a file.

    Args:
        found: of the model itself, or of models of its recipe that each left a case out.
        release: the model and what is known of its making.

    Raises:
        DataError: the assessment is of another recipe, or a run has no history.
        BadManifest, CorruptModel: the file is not what its manifest says.
    """
    manifest, sha256 = read_identity(release.model)
    _same_recipe(found, manifest)
    sections = {
        "What it is": _what(manifest, release.model, sha256),
        "Intended use": f"{manifest.intended_use} Licence of the weights: {manifest.licence}.",
        "Data and licences": _data(manifest),
        "Training": _training(manifest, release),
        "Who judged": _judges(found, manifest, sha256),
        "Scores": report.scores(found),
        "Planted lesions": report.lesions(found),
        "Robustness": report.changes(found),
        "Confidence": _confidence(manifest, release),
        "Limits and known failures": _failures(found),
        "Speed": report.speed(found),
        "Train it on your own data": _again(manifest, release),
        "How the figures were made": report.made_by(found),
    }
    title = f"# {release.reference}\n\n**For research only. Not a medical device.**"
    return "\n\n".join([title, *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"


def _what(manifest: Manifest, model: Path, sha256: str) -> str:
    graph = parse(model)[0].graph
    numbers = sum(
        int(np.prod(tensor.dims))
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    )
    window = " to ".join(f"{hu:g}" for hu in manifest.intensity.window_hu)
    grid = " x ".join(_axis(manifest, axis) for axis in range(3))
    return markdown(
        ["", ""],
        [
            ["network", f"{manifest.architecture}, {manifest.dims}D, {numbers:,} weights"],
            ["file", f"{model.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256[:16]}"],
            ["sees", f"CTs at {grid} (Z, Y, X), {window} HU"],
            ["gives", ", ".join(name.replace("_", " ") for name in manifest.outputs)],
        ],
    )


def _axis(manifest: Manifest, axis: int) -> str:
    spacing, size = manifest.sampling.spacing_mm[axis], manifest.sampling.size[axis]
    if spacing is not None:
        return f"{spacing:g} mm"
    return f"{size} voxels" if size is not None else "its own slices"


def _data(manifest: Manifest) -> str:
    rows = [
        [
            str(entry.get("name", "not named")),
            str(entry.get("cases", "–")),
            str(entry.get("labels", "not stated")),
            str(entry.get("licence", "not stated")),
        ]
        for entry in manifest.provenance.data
    ]
    # What a model was gone on with on may be what it had been trained on before.
    rows = [row for place, row in enumerate(rows) if row not in rows[:place]]
    text = (
        "Labels that a network, a threshold or a program made are pseudo-labels, not a person's: "
        "the column says which are. Scores against pseudo-labels say how alike two machines are. "
        "The licences bind what may be done with the weights: research."
    )
    if not rows:
        return "The manifest names no data."
    return f"{markdown(['data', 'cases', 'labels', 'licence'], rows)}\n\n{text}"


def _training(manifest: Manifest, release: Release) -> str:
    made = manifest.provenance
    facts: dict[str, Any] = {
        "recipe": made.recipe,
        "scope": made.scope,
        "site": made.site,
        "round": made.round,
        "job": made.job,
        "steps": made.steps,
        "seed": made.seed,
        "made on": made.created,
        "with": ", ".join(f"{name} {version}" for name, version in made.software.items()),
    }
    rows = [[name, str(value)] for name, value in facts.items() if value not in (None, "")]
    return f"{markdown(['', ''], rows)}\n\n{_cost(release)}"


def _cost(release: Release) -> str:
    if not release.runs:
        return "How long the training took was not given."
    found = [training_seconds(run) for run in release.runs]
    seconds = [value for value in found if value is not None]
    if len(seconds) < len(found):
        return "The training's history does not say how long it took."
    whole, power = sum(seconds), release.power
    return (
        f"The training took {whole / 60:.0f} minutes of a machine: {power.kwh(whole):.3f} kWh "
        f"and {power.grams(whole):.0f} g of CO2, if it draws {power.watts:g} W and a kWh is "
        f"{power.grams_per_kwh:g} g (both assumed, not measured)."
    )


def _judges(found: Assessed, manifest: Manifest, sha256: str) -> str:
    about = found.record.figures["models"][found.name]
    itself = all(case["sha256"] == sha256 for case in about.values())
    others = sorted({str(case["steps"]) for case in about.values()})
    first = (
        "The figures below are of this very file."
        if itself
        else f"The figures below are of {len(about)} models of the same recipe, each trained "
        f"without the case that it is judged by ({', '.join(others)} steps; this one "
        f"{manifest.provenance.steps}). No figure is of this very file."
    )
    return f"{first}\n\n{report.judges(found)}"


def _confidence(manifest: Manifest, release: Release) -> str:
    """What the manifest says of how its confidences were fitted, and how well that did."""
    fitted = manifest.calibration.fitted
    if not fitted:
        return "Not calibrated: a report of this model gives no confidence."
    rows = [
        [
            name.replace("_", " "),
            str(row["observations"]),
            f"{row['error_before']:.3f}",
            f"{row['error_after']:.3f}",
            f"{row['there_kept']} of {row['there']}",
            f"{row['wrong_dropped']} of {row['wrong']}",
        ]
        for name, row in fitted["structures"].items()
    ]
    header = ["structure", "n", "error before", "after", "there, kept", "wrong, left out"]
    blocks = [
        f"Fitted on {len(fitted['cases'])} cases and changed copies of them "
        f"({'; '.join(fitted['labels'])}), the errors on those that each fit had not seen. Of a "
        f"voxel the expected calibration error was {fitted['voxel_error_before']:.3f} and is "
        f"{fitted['voxel_error_after']:.3f}. Something was marked in "
        f"{fitted['strangers']['marked']} CTs without an abdomen, and all of it left out in "
        f"{fitted['strangers']['emptied']} of them.",
        markdown(header, rows),
    ]
    if release.reliability is not None:
        blocks.append(f"![Reliability]({release.reliability.name})")
    return "\n\n".join(blocks)


def _failures(found: Assessed) -> str:
    text = _listed(limits(found))
    figures = found.record.of("gallery", found.name)
    captions = [picture["caption"] for case in figures.values() for picture in case["pictures"]]
    if not captions:
        return text
    shown = f"![Failures]({FOLDER}/{SHEET})"
    return "\n\n".join([text, "The worst of each case:", _listed(captions), shown])


def _again(manifest: Manifest, release: Release) -> str:
    recipe = manifest.provenance.recipe
    return "\n".join(
        [
            "```sh",
            f"islet train {recipe} --data YOUR_DATA --out runs/own                 # from scratch",
            f"islet train {recipe} --data YOUR_DATA --from {release.reference} --out runs/own",
            "```",
        ]
    )


def _same_recipe(found: Assessed, manifest: Manifest) -> None:
    about = found.record.figures["models"][found.name]
    other = sorted({case["recipe"] for case in about.values()} - {manifest.provenance.recipe})
    if other:
        raise DataError(
            f"The assessment is of {', '.join(other)}, the card's model was made by "
            f"{manifest.provenance.recipe}; assess runs of the same recipe."
        )


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
