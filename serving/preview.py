"""A picture of a segmented CT: three planes, coloured masks, volumes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imaging.geometry import canonical_axes
from imaging.volume import Volume, to_canonical
from models.labels import Structure, members

# Soft tissue: level 50, width 400.
_WINDOW_HU = (-150.0, 250.0)
_PANEL_MM = 420.0
_PANEL_HEIGHT = 560
_MARGIN = 16
_LEGEND_ROW = 30
_SWATCH = 26
_FILL = 0.35
_INK = (235, 235, 235)
_QUIET = (150, 150, 150)
_PAPER = (12, 12, 14)
_BYTE = 255
# A CT's noise does not deflate: higher levels take longer and save nothing.
_PNG_LEVEL = 1
_TITLES = ("axial", "coronal", "sagittal")
# Letters at the left and the right of each plane as it is drawn.
_SIDES = (("R", "L"), ("R", "L"), ("A", "P"))

Grey = NDArray[np.uint8]


def preview_png(volume: Volume, labels: Volume, masks: Sequence[str]) -> bytes:
    """Draw a PNG.

    Axial, coronal and sagittal planes where the asked masks show most, in radiological view
    (the patient's right on the left, head up), with the true aspect of the voxels. Neither volume
    is copied.

    Args:
        volume: Hounsfield units (Z, Y, X) on any grid.
        labels: uint8 label map of ``models.labels`` on the same grid.
        masks: names of the masks whose structures are coloured.

    Raises:
        BadParameter: no such mask.
    """
    ct, found = to_canonical(volume), to_canonical(labels)
    shown = _structures(masks)
    areas = _areas(labels, [s.value for s in shown])
    panels = [
        _panel(ct, found, shown, axis, at)
        for axis, at in enumerate(_planes(areas, found.array.shape))
    ]
    legend = [
        (s, float(area[0].sum()) * labels.geometry.voxel_ml)
        for s, area in zip(shown, areas, strict=True)
        if area[0].any()
    ]
    png = io.BytesIO()
    _sheet(panels, legend).save(png, "PNG", compress_level=_PNG_LEVEL)
    return png.getvalue()


def _structures(masks: Sequence[str]) -> list[Structure]:
    """Every structure in the masks once, organs before the lesions drawn over them."""
    found = {s.name: s for mask in masks for s in members(mask)}
    return sorted(found.values(), key=lambda s: s.value)


Areas = tuple[NDArray[np.int64], ...]


def _areas(labels: Volume, values: Sequence[int]) -> list[Areas]:
    """Of each label value: its voxels in each plane across each canonical axis (S, P, L)."""
    depth, *plane = labels.array.shape
    slices = np.zeros((len(values), depth), np.int64)
    # What lies along the first axis added up: its sums are the counts of the other two axes.
    heaps = np.zeros((len(values), *plane), np.int64)
    for first in range(0, depth, _BYTE):
        # A pass over bytes is vectorised, and a byte holds the sum of this many slices.
        heap = np.zeros(heaps.shape, np.uint8)
        for z in range(first, min(first + _BYTE, depth)):
            rows = _labelled_rows(labels.array[z])
            for k, value in enumerate(values):
                mask = labels.array[z, rows] == value
                slices[k, z] = np.count_nonzero(mask)
                if slices[k, z]:
                    heap[k, rows] += mask.view(np.uint8)
        heaps += heap
    axes, flips = canonical_axes(labels.geometry.direction)
    stored = zip(slices, heaps.sum(axis=2), heaps.sum(axis=1), strict=True)
    return [
        tuple(counts[a][:: -1 if f else 1] for a, f in zip(axes, flips, strict=True))
        for counts in stored
    ]


def _labelled_rows(plane: NDArray[np.uint8]) -> slice:
    """The run of rows of a plane (Y, X) outside of which all is 0."""
    rows = np.flatnonzero(plane.max(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0)


def _planes(structures: list[Areas], shape: tuple[int, ...]) -> list[int]:
    """Index along each axis (Z, Y, X) of the plane that shows most of all structures, else the
    middle.

    Every structure counts by the root of its share of its own largest plane: a plane with some
    of each wins over one with all of one and none of the others.
    """
    planes = []
    for axis, length in enumerate(shape):
        shares = [np.sqrt(a[axis] / a[axis].max()) for a in structures if a[axis].any()]
        planes.append(int(np.sum(shares, axis=0).argmax()) if shares else length // 2)
    return planes


def _panel(ct: Volume, labels: Volume, shown: list[Structure], axis: int, at: int) -> Image.Image:
    """One plane in true aspect with its masks."""
    low, high = _WINDOW_HU
    spacing = [s for a, s in enumerate(ct.geometry.spacing) if a != axis]
    plane = np.take(ct.array, at, axis).astype(np.float32)
    grey = (np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    marks = np.take(labels.array, at, axis)
    if axis != 0:
        # Canonical Z runs to the head, pictures run down.
        grey, marks = grey[::-1], marks[::-1]
    height, width = (n * s for n, s in zip(grey.shape, spacing, strict=True))
    scale = _PANEL_HEIGHT / max(height, _PANEL_MM)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    base = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    coloured = np.asarray(base).copy()
    for structure in shown:
        if structure.value not in marks:
            continue
        mask = Image.fromarray((marks == structure.value).astype(np.uint8) * 255)
        _paint(coloured, np.asarray(mask.resize(size, Image.Resampling.BILINEAR)) > 127, structure)
    return _labelled(Image.fromarray(coloured), axis)


def _paint(picture: Grey, mask: NDArray[np.bool_], structure: Structure) -> None:
    """Fill a mask half transparently and draw its contour, in place."""
    colour = np.asarray(structure.colour, np.float32)
    picture[mask] = (picture[mask] * (1 - _FILL) + colour * _FILL).astype(np.uint8)
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    picture[mask & ~inner] = structure.colour


def _labelled(panel: Image.Image, axis: int) -> Image.Image:
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(15)
    left, right = _SIDES[axis]
    middle = panel.height // 2
    draw.text((6, 4), _TITLES[axis], _INK, font)
    draw.text((6, middle), left, _QUIET, font, anchor="lm")
    draw.text((panel.width - 6, middle), right, _QUIET, font, anchor="rm")
    return panel


def _sheet(panels: list[Image.Image], legend: list[tuple[Structure, float]]) -> Image.Image:
    """Panels side by side over a legend with volumes."""
    width = sum(p.width for p in panels) + _MARGIN * (len(panels) + 1)
    tallest = max(p.height for p in panels)
    font = ImageFont.load_default(17)
    rows = _rows([(s, f"{s.name.replace('_', ' ')}  {ml:.1f} mL") for s, ml in legend], width, font)
    height = tallest + 3 * _MARGIN + _LEGEND_ROW * max(1, len(rows))
    sheet = Image.new("RGB", (width, height), _PAPER)
    x = _MARGIN
    for panel in panels:
        sheet.paste(panel, (x, _MARGIN + (tallest - panel.height) // 2))
        x += panel.width + _MARGIN
    draw = ImageDraw.Draw(sheet)
    top = tallest + 2 * _MARGIN
    if not rows:
        draw.text((_MARGIN, top), "none of the asked structures was found", _INK, font)
    for row, entries in enumerate(rows):
        for x, structure, text in entries:
            y = top + row * _LEGEND_ROW
            draw.rectangle((x, y + 3, x + 16, y + 19), structure.colour)
            draw.text((x + _SWATCH, y), text, _INK, font)
    return sheet


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Row = list[tuple[int, Structure, str]]


def _rows(entries: list[tuple[Structure, str]], width: int, font: Font) -> list[Row]:
    """Legend entries with their x, broken into rows that fit the width."""
    rows: list[Row] = []
    x = width
    for structure, text in entries:
        wide = _SWATCH + round(font.getlength(text)) + 2 * _MARGIN
        if x + wide > width:
            rows.append([])
            x = _MARGIN
        rows[-1].append((x, structure, text))
        x += wide
    return rows
