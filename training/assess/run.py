"""An assessment from end to end: every part of every case, kept as soon as it is there."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from imaging.errors import BadParameter
from imaging.threads import usable_cores
from imaging.version import VERSION
from models.labels import structure
from training.assess import gallery, planted, plots, robustness, tables
from training.assess.record import Record
from training.assess.subjects import Bench, Subject, subjects
from training.cases import Case
from training.planting import Shapes

PARTS = ("tables", "planted", "robustness", "gallery")
SHAPES_CACHE = "shapes.npz"
ROBUSTNESS, SENSITIVITY, TRADE_OFF = "robustness.png", "sensitivity.png", "trade-off.png"


@dataclass(frozen=True)
class Settings:
    """What is assessed and how.

    Attributes:
        parts: of ``PARTS``.
        structures: to judge; all that a model gives and a case annotates where empty.
        copies: how many times lesions are planted into a case.
        seed: of everything random.

    Raises:
        BadParameter: no such part or structure, no copy, or a negative seed.
    """

    parts: tuple[str, ...] = PARTS
    structures: tuple[str, ...] = ()
    copies: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise BadParameter(f"There is no part {unknown}; choose from {', '.join(PARTS)}.")
        for name in self.structures:
            structure(name)
        if self.copies < 1 or self.seed < 0:
            raise BadParameter(
                f"copies must be 1 or more and seed 0 or more, not {self.copies} and {self.seed}."
            )


@dataclass(frozen=True)
class Assessed:
    """What an assessment found.

    Attributes:
        record: all figures, as ``assessment.json`` has them.
        name: under which the judged models' figures are filed.
        beside: the names of the models they are compared with.
    """

    record: Record
    name: str
    beside: tuple[str, ...] = ()


def assess(
    reference: str,
    cases: Sequence[Case],
    out: Path,
    settings: Settings,
    shapes: Path | None = None,
    beside: Sequence[str] = (),
    command: str = "",
) -> Assessed:
    """Judge models on cases, and draw the figures.

    Parts that ``out`` holds for the same model, case and settings are not computed again.

    Args:
        reference: of :func:`training.assess.subjects.subjects`.
        cases: with labels.
        out: folder of ``assessment.json``, plots and pictures.
        settings: which parts, and how.
        shapes: the library of real lesions; its held-out part is planted.
        beside: further references, for the trade-off of Dice and seconds alone.
        command: kept in the record.

    Raises:
        BadParameter: lesions are to be planted and there are no shapes; or of ``subjects``.
        DataError: ``out`` holds what is no assessment of this version; or of a case.
    """
    if "planted" in settings.parts and shapes is None:
        raise BadParameter("Lesions are planted from shapes; name their folder with --shapes.")
    record = Record(out)
    record.figures |= {"machine": machine(), "command": command}
    judged = subjects(reference, cases)
    name = judged[0].manifest.name
    work = _Work(record, out, settings, _library(shapes, out))
    for subject in judged:
        work.judge(subject, name, settings.parts)
    others: list[str] = []
    for other in beside:
        compared = subjects(other, cases)
        others.append(_unlike([name, *others], compared[0].manifest.name, other))
        for subject in compared:
            work.judge(subject, others[-1], ("tables",))
    record.save()
    found = Assessed(record, name, tuple(others))
    draw(found, out)
    return found


def draw(found: Assessed, out: Path) -> None:
    """Draw every plot that the record has figures for."""
    record = found.record
    if figures := record.of("robustness", found.name):
        plots.robustness(robustness.curves(figures), out / ROBUSTNESS)
    lesions = [x for case in record.of("planted", found.name).values() for x in case["lesions"]]
    if lesions:
        plots.sensitivity(planted.by_size(lesions), out / SENSITIVITY)
    if found.beside and (models := compared(found)):
        plots.trade_off(models, out / TRADE_OFF)
    gallery.sheet(record.of("gallery", found.name), out)


def compared(found: Assessed) -> list[plots.Model]:
    """Dice and seconds of all models on the cases and structures that every one was judged on."""
    all_scores = {
        name: {(s.case, s.structure): s.dice for s in tables.scores_of(figures)}
        for name in (found.name, *found.beside)
        if (figures := found.record.of("tables", name))
    }
    shared = set.intersection(*(set(scores) for scores in all_scores.values()))
    cases = sorted({case for case, _ in shared})
    models = []
    for name, scores in all_scores.items():
        by_case = [[scores[key] for key in sorted(shared) if key[0] == case] for case in cases]
        figures = found.record.of("tables", name)
        seconds = tuple(figures[case]["seconds"]["cpu"] for case in cases)
        models.append(plots.Model(name, tuple(float(np.mean(v)) for v in by_case), seconds))
    return models if cases else []


def machine() -> dict[str, Any]:
    """What the seconds were measured on."""
    return {
        "cores": usable_cores(),
        "processor": _processor(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "islet": VERSION,
    }


@dataclass(frozen=True, eq=False)
class _Work:
    """One assessment under way."""

    record: Record
    out: Path
    settings: Settings
    shapes: Callable[[], Shapes]

    def judge(self, subject: Subject, name: str, parts: Sequence[str]) -> None:
        """Compute the parts of one case that the record does not have."""
        self.record.figures["outputs"][name] = list(subject.manifest.outputs)
        about = self.record.figures["models"].setdefault(name, {})
        about[subject.case.name] = {
            "file": subject.model.name,
            "sha256": subject.sha256,
            "seen": subject.seen,
            "recipe": subject.manifest.provenance.recipe,
            "steps": subject.manifest.provenance.steps,
            "source": dict(subject.case.source),
            "calibrated": bool(subject.manifest.calibration.trust),
        }
        bench, asked, seed = Bench(subject), self.settings.structures, self.settings.seed
        copies = self.settings.copies

        def keep(part: str, key: dict[str, Any], made: Callable[[], Any]) -> None:
            whole = {"islet": VERSION, "model": subject.sha256, "files": _sizes(subject.case)}
            if part in parts:
                self.record.part(part, name, subject.case.name, whole | key, made)

        keep("tables", {"asked": asked}, lambda: tables.measure(bench, asked))
        keep(
            "planted",
            {"seed": seed, "copies": copies},
            lambda: planted.measure(bench, self.shapes(), copies, seed),
        )
        keep(
            "robustness",
            {"asked": asked, "seed": seed},
            lambda: robustness.measure(bench, seed, asked),
        )
        lesions = self.record.of("planted", name).get(subject.case.name)
        keep(
            "gallery",
            {"asked": asked, "seed": seed, "planted": lesions},
            lambda: gallery.measure(
                bench, self.out, asked, lesions, self.shapes() if lesions else None, seed
            ),
        )


def _library(shapes: Path | None, out: Path) -> Callable[[], Shapes]:
    """Opens the shapes that no training has seen, once and only when they are needed."""

    @functools.cache
    def opened() -> Shapes:
        if shapes is None:
            raise BadParameter("The pictures of missed lesions need their shapes; name --shapes.")
        return Shapes.open(shapes, "held-out", out / SHAPES_CACHE)

    return opened


def _unlike(taken: Sequence[str], name: str, reference: str) -> str:
    """A name for a model that is compared, told apart from those that have it already."""
    return f"{name} ({Path(reference).name})" if name in taken else name


def _sizes(case: Case) -> list[list[Any]]:
    """Name and bytes of each of a case's files; of a folder, of all that it holds."""
    found = []
    for path in case.files:
        inner = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        found.append([path.name, sum(p.stat().st_size for p in inner)])
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
