"""Where the model fails, as pictures: each case's worst structure, missed and invented lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.labels import structure
from training.assess.pictures import View, contact_sheet, draw
from training.assess.planted import plant_copy, targets
from training.assess.subjects import Bench
from training.assess.tables import judged
from training.metrics import dice, judgeable, mask_of, volume_error_ml
from training.planting import REAL, Kind, Shapes

FOLDER, SHEET = "gallery", "contact-sheet.png"


def measure(
    bench: Bench,
    out: Path,
    asked: Sequence[str] = (),
    planted: Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw one case's failures.

    Args:
        bench: the case and its model.
        out: folder of the assessment; pictures go to ``out/gallery``.
        asked: structures to look at; all that can be scored where empty.
        planted, shapes, seed: figures of :func:`training.assess.planted.measure`, and what they
            were made with; the largest lesion that was missed is planted once more.

    Returns:
        ``pictures``, each with ``file`` (below ``out``), ``kind`` and ``caption``.
    """
    shown = [_worst_structure(bench, out, asked), _invented(bench, out)]
    if planted is not None and shapes is not None:
        shown.append(_missed(bench, out, planted, shapes, seed))
    return {"pictures": [picture for picture in shown if picture is not None]}


def sheet(figures: Mapping[str, Any], out: Path) -> Path | None:
    """The contact sheet of all cases' pictures; ``None`` where there is none."""
    files = [out / p["file"] for case in figures.values() for p in case["pictures"]]
    if not files:
        return None
    path = out / FOLDER / SHEET
    contact_sheet(files, path)
    return path


def _worst_structure(bench: Bench, out: Path, asked: Sequence[str]) -> dict[str, str] | None:
    truth = bench.loaded.labels.array
    predicted = judgeable(bench.untouched[0], truth)
    scores = {n: dice(mask_of(predicted, n), mask_of(truth, n)) for n in judged(bench, asked)}
    if not scores:
        return None
    worst = min(scores, key=lambda name: scores[name])
    masks = mask_of(truth, worst), mask_of(predicted, worst)
    error = volume_error_ml(masks[1], masks[0], bench.loaded.image.geometry.spacing)
    caption = f"{bench.loaded.name}: {worst}, Dice {scores[worst]:.3f}, volume {error:+.0f} ml"
    view = View(bench.loaded.image, *masks)
    return _drawn(view, out, f"{bench.loaded.name}-worst", "worst structure", caption)


def _invented(bench: Bench, out: Path) -> dict[str, str] | None:
    """All lesions of the kind that most is predicted of on the CT as it is."""
    predicted = bench.untouched[0]
    kinds = [kind for kind in REAL if kind in bench.subject.manifest.outputs]
    sizes = {kind: int((predicted == structure(kind).value).sum()) for kind in kinds}
    worst = max(sizes, key=lambda kind: sizes[kind], default=None)
    if worst is None or not sizes[worst]:
        return None
    found = predicted == structure(worst).value
    truth = bench.loaded.labels.array == structure(worst).value
    ml = sizes[worst] * bench.loaded.image.geometry.voxel_ml
    caption = f"{bench.loaded.name}, untouched: {ml:.1f} ml of {_words(worst)} predicted"
    view = View(bench.loaded.image, truth, found)
    return _drawn(
        view, out, f"{bench.loaded.name}-untouched", "lesion on the untouched CT", caption
    )


def _missed(
    bench: Bench, out: Path, planted: Mapping[str, Any], shapes: Shapes, seed: int
) -> dict[str, str] | None:
    """The largest planted lesion that was not found."""
    missed = [lesion for lesion in planted["lesions"] if not lesion["found"]]
    if not missed:
        return None
    worst = max(missed, key=lambda lesion: float(lesion["diameter_mm"]))
    kinds: tuple[Kind, ...] = tuple(k for k in REAL if k in bench.subject.manifest.outputs)
    again = plant_copy(bench, shapes, kinds, worst["copy"], seed)
    target = next(
        mask
        for lesion, mask in targets(again)
        if (lesion.kind, lesion.shape) == (worst["kind"], worst["shape"])
    )
    found: NDArray[np.bool_] = bench.segment(again.image).array == structure(worst["kind"]).value
    caption = (
        f"{bench.loaded.name}, planted: {_words(worst['kind'])} of {worst['diameter_mm']:.0f} mm "
        f"missed ({worst['covered']:.0%} covered, Dice {worst['dice']:.2f})"
    )
    view = View(again.image, target, found)
    return _drawn(view, out, f"{bench.loaded.name}-missed", "planted lesion missed", caption)


def _drawn(view: View, out: Path, name: str, kind: str, caption: str) -> dict[str, str]:
    file = f"{FOLDER}/{name}.png"
    draw(view, caption, out / file)
    return {"file": file, "kind": kind, "caption": caption}


def _words(name: str) -> str:
    return name.replace("_", " ")
