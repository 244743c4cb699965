"""Three planes of a CT with the outlines of truth and prediction."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from imaging.files import write_whole
from imaging.volume import Volume, to_canonical

Mask = NDArray[np.bool_]

# Soft tissue: level 50, width 400.
_WINDOW_HU = (-150.0, 250.0)
# Okabe and Ito's, told apart by the colour-blind too.
_TRUTH, _PREDICTION = "#009E73", "#D55E00"
_TITLES = ("axial", "coronal", "sagittal")
_SIDES = (("R", "L"), ("R", "L"), ("A", "P"))
# A contact sheet: pictures a row, and their width in pixels.
_COLUMNS, _WIDTH = 2, 900


@dataclass(frozen=True, eq=False)
class View:
    """What a picture shows.

    Attributes:
        ct: Hounsfield units on any grid.
        truth, predicted: masks (Z, Y, X) on it.
        margin_mm: how far beyond both masks it goes.
    """

    ct: Volume
    truth: Mask
    predicted: Mask
    margin_mm: float = 60.0


def draw(view: View, title: str, path: Path) -> None:
    """Write axial, coronal and sagittal planes as a PNG, where truth and prediction differ most.

    In radiological view (the patient's right on the left, head up), voxels in true aspect.

    Args:
        view: what is shown.
        title: over the picture.
        path: of the file.
    """
    ct, truth, predicted = (
        to_canonical(v).array
        for v in (view.ct, view.ct.with_array(view.truth), view.ct.with_array(view.predicted))
    )
    spacing = to_canonical(view.ct).geometry.spacing
    where = _planes(truth, predicted)
    box = _box(truth | predicted, spacing, view.margin_mm)
    figure = Figure(figsize=(12, 4.6), facecolor="white", layout="constrained")
    for axis, panel in enumerate(figure.subplots(1, 3)):
        cut = tuple(w if a == axis else box[a] for a, w in enumerate(where))
        # Slices run from the feet upwards; a picture's rows run down.
        planes = [np.asarray(v[cut])[:: 1 if axis == 0 else -1] for v in (ct, truth, predicted)]
        _panel(panel, planes, [s for a, s in enumerate(spacing) if a != axis])
        panel.set_title(_TITLES[axis], fontsize=9)
        for side, x in zip(_SIDES[axis], (0.03, 0.97), strict=True):
            panel.text(
                x, 0.5, side, color="white", fontsize=9, ha="center", transform=panel.transAxes
            )
    handles = [Line2D([], [], color=_TRUTH), Line2D([], [], color=_PREDICTION, linestyle="--")]
    figure.legend(handles, ["label", "prediction"], loc="outside lower center", ncols=2)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def contact_sheet(pictures: Sequence[Path], path: Path) -> None:
    """Write all pictures as one PNG, in rows of two."""
    small = []
    for picture in pictures:
        with Image.open(picture) as file:
            height = round(file.height * _WIDTH / file.width)
            small.append(file.convert("RGB").resize((_WIDTH, height)))
    tallest = max(image.height for image in small)
    rows = -(-len(small) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _WIDTH, rows * tallest), "white")
    for index, image in enumerate(small):
        row, column = divmod(index, _COLUMNS)
        sheet.paste(image, (column * _WIDTH, row * tallest))
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    write_whole(path, drawn.getvalue())


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG in one step."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_whole(path, drawn.getvalue())


def _panel(panel: Any, planes: Sequence[NDArray[Any]], spacing: Sequence[float]) -> None:
    height, width = (n * mm for n, mm in zip(planes[0].shape, spacing, strict=True))
    low, high = _WINDOW_HU
    panel.imshow(
        planes[0],
        cmap="gray",
        vmin=low,
        vmax=high,
        interpolation="bilinear",
        extent=(0, width, height, 0),
    )
    for mask, colour, style in ((planes[1], _TRUTH, "-"), (planes[2], _PREDICTION, "--")):
        if mask.any() and not mask.all():
            # The picture's axis runs down already: the first row lies at its start, "lower".
            panel.contour(
                mask,
                [0.5],
                colors=[colour],
                linewidths=1.2,
                linestyles=[style],
                origin="lower",
                extent=(0, width, 0, height),
            )
    panel.set_axis_off()


def _planes(truth: Mask, predicted: Mask) -> tuple[int, int, int]:
    """The plane along each axis in which most voxels differ, or most are, where none differ."""
    wrong = truth ^ predicted
    shown = wrong if wrong.any() else truth
    counts = [shown.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    z, y, x = (int(np.argmax(count)) for count in counts)
    return z, y, x


def _box(shown: Mask, spacing: Sequence[float], margin_mm: float) -> list[slice]:
    """What of the CT is drawn: the masks with a margin; all of it where they are empty."""
    box = []
    for axis, mm in enumerate(spacing):
        there = np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis})))
        ends = (there[0], there[-1]) if len(there) else (0, shown.shape[axis] - 1)
        margin = int(np.ceil(margin_mm / mm))
        box.append(slice(max(0, int(ends[0]) - margin), int(ends[1]) + margin + 1))
    return box
