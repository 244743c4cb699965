"""What holds the phantom's organs: fat, muscle wall, spine, ribs, lungs and heart."""

from __future__ import annotations

import numpy as np

from models.labels import BY_NAME
from training.phantoms.patient import Patient
from training.shapes import ellipsoid, smooth_min


def draw_body(patient: Patient) -> None:
    """Paint body, muscles, bones and chest on an empty canvas."""
    for part in (_body, _spine_muscles, _spine, _ribs, _chest):
        part(patient)


def _body(p: Patient) -> None:
    box = p.canvas.whole
    f = p.frame
    front, back, flank = f.reach
    skin = p.grown(box, f.front - front, back - f.back, flank - f.half_width)
    uneven = p.lumps(box, 60, 2.5)
    fat = p.hu["fat"] + p.lumps(box, 9, 5)
    p.canvas.paint(box, skin + uneven, -20.0)
    p.canvas.paint(box, skin + uneven + 2, fat)
    wall = p.grown(box, f.wall * 0.8, 24, f.wall) + p.lumps(box, 45, 1.5)
    p.canvas.paint(box, wall, p.hu["muscle"] + p.lumps(box, 8, 9))
    p.canvas.paint(box, p.cavity, fat)


def _spine_muscles(p: Patient) -> None:
    size = p.rng.uniform(0.85, 1.15)
    for side in (-1, 1):
        groups = (
            ((0, 50, 34), (900, 21, 27)),  # erector spinae
            ((-70, 6, 42), (75, 17, 17)),  # psoas
            ((-45, 30, 62), (60, 9, 19)),  # quadratus lumborum
            ((45, -12, 17), (70, 12, 6)),  # crus of the diaphragm
        )
        for (z, y, x), radii in groups:
            rz, ry, rx = radii[0], radii[1] * size, radii[2] * size
            box = p.canvas.box((z - rz, y - ry, side * x - rx), (z + rz, y + ry, side * x + rx))
            at = p.canvas.coordinates(box)
            shape = ellipsoid(at, (z, y, side * x), (rz, ry, rx)) + p.lumps(box, 25, 1.5)
            p.canvas.paint(box, shape, p.hu["muscle"] + p.lumps(box, 8, 10))


def _spine(p: Patient) -> None:
    box = p.canvas.box((-900, -26, -50), (900, 70, 50))
    z, y, x = at = p.canvas.coordinates(box)
    pitch = p.rng.uniform(31, 37)
    level = np.abs((z / pitch + 0.5) % 1 - 0.5) * pitch  # mm from the middle of the vertebra
    size = p.frame.organ
    waist = 1.5 * np.clip(1 - level / 10, 0, 1)
    body = ellipsoid((0 * z, y, x), (0, 0, 0), (900, 17 * size, 22 * size)) + waist
    disc = pitch / 2 - 4 - level
    arch = np.abs(ellipsoid((0 * z, y, x), (0, 25, 0), (900, 12, 14))) - 3.5
    arch = np.maximum(arch, level - 11)
    thorn = np.maximum(np.maximum(np.abs(x) - 3.5, np.abs(y - 47) - 13), level - 9)
    wings = np.maximum(np.maximum(np.abs(np.abs(x) - 27) - 14, np.abs(y - 22) - 4), level - 6)
    bone = smooth_min(smooth_min(arch, thorn, 4), wings, 4)
    grain = p.hu["marrow"] + p.lumps(box, 6, 30)
    p.canvas.paint(box, body, p.hu["disc"])
    whole = np.maximum(body, -disc)
    p.canvas.paint(box, whole, p.hu["cortical_bone"] * 0.75)
    p.canvas.paint(box, whole + 2.0, grain)
    p.canvas.paint(box, bone, p.hu["cortical_bone"] * 0.8)
    p.canvas.paint(box, bone + 2.5, grain + 100)
    canal = ellipsoid((0 * at[0], y, x), (0, 25, 0), (900, 8.5, 10.5))
    p.canvas.paint(box, canal, 30.0)


def _ribs(p: Patient) -> None:
    box = p.canvas.box((-40, -200, -200), (900, 90, 200))
    z, y, x = p.canvas.coordinates(box)
    slant, pitch = p.rng.uniform(0.45, 0.7), p.rng.uniform(26, 32)
    order = (z - slant * (y - 45) - p.rng.uniform(30, 50)) / pitch
    along = np.abs(order % 1 - 0.5) * pitch
    shell = np.abs(p.grown(box, 4, 6, 5) - 0.5) - 3.2
    rib = np.maximum(shell, along - 6)
    ends = (10 - 30 * np.floor(order)) - y  # the lowest ribs are short and stay behind
    gap = np.maximum(0.62 * p.frame.front - y, 20 - np.abs(x))
    rib = np.maximum(np.maximum(rib, ends), np.maximum(gap, -order * pitch))
    p.canvas.paint(box, rib, p.hu["cortical_bone"] * 0.9)
    p.canvas.paint(box, rib + 2.2, p.hu["marrow"])


def _chest(p: Patient) -> None:
    box = p.canvas.box((-10, -200, -200), (900, 90, 200))
    z, y, x = at = p.canvas.coordinates(box)
    cavity, above = p.cavity[box], p.dome[box] - z + p.lumps(box, 50, 2)
    middle = np.hypot(x - 4, (y + 28) * 0.8) - 26  # mediastinum before the spine
    heart = ellipsoid(at, p.place(p.frame.top + 42, -75, 22), p.sizes(48, 38, 55))
    lung = np.maximum(np.maximum(above, cavity + 1), -np.minimum(middle, heart - 4))
    p.canvas.paint(box, np.maximum(above - 3, cavity), p.hu["muscle"])
    p.canvas.paint(box, np.maximum(above, np.minimum(middle, heart - 4)), p.hu["fat"])
    p.canvas.paint(box, np.maximum(heart, above), 0.5 * (p.hu["cava"] + p.hu["artery"]))
    p.canvas.paint(box, lung, p.hu["lung"] + p.lumps(box, 7, 45), BY_NAME["lung"].value)
