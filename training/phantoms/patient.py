"""One random patient of the phantom: sizes, Hounsfield units by contrast phase, places of organs.

Positions are (z, y, x) mm from the centre of the second lumbar vertebra, axes to (S, P, L).
Hounsfield units are typical values; assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantoms.canvas import Box, Canvas
from training.shapes import F32, Point

PHASES = ("none", "arterial", "portal", "late")
# HU per phase, in the order of PHASES.
_HU_BY_PHASE: dict[str, tuple[float, float, float, float]] = {
    "artery": (42, 310, 160, 115),
    "cava": (40, 75, 140, 115),
    "portal_vein": (42, 110, 170, 120),
    "liver": (57, 66, 108, 96),
    "spleen": (48, 125, 120, 102),
    "pancreas": (40, 98, 96, 78),
    "cortex": (32, 175, 190, 160),
    "medulla": (31, 65, 155, 165),
    "urine": (6, 6, 12, 220),
    "bowel_wall": (36, 75, 80, 66),
    "muscle": (52, 55, 60, 60),
    "marrow": (145, 150, 160, 155),
}
_HU_ALWAYS = {"fat": -103.0, "bile": 9.0, "cortical_bone": 620.0, "disc": 85.0, "lung": -850.0}


@dataclass(frozen=True)
class Frame:
    """The sizes of one patient, mm.

    Attributes:
        half_width, front, back: the abdominal cavity: lateral half axis, and its y at the midline.
        wall: thickness of the muscle wall at the flank.
        fat: thickness of the fat under the skin at the flank.
        top: z of the right dome of the diaphragm.
        organ: scale of the organs.
        roundness: exponent of the cross-section, 2 for an ellipse.
    """

    half_width: float
    front: float
    back: float
    wall: float
    fat: float
    top: float
    organ: float
    roundness: float

    @property
    def reach(self) -> tuple[float, float, float]:
        """y of the front skin, y of the back skin, lateral half axis of the skin."""
        return (
            self.front - self.wall - 0.9 * self.fat - 4,
            self.back + 26 + 0.8 * self.fat,
            self.half_width + self.wall + self.fat,
        )


def sample_frame(rng: np.random.Generator) -> Frame:
    """A random patient: build, fat and organ size vary independently within adult ranges."""
    return Frame(
        half_width=rng.uniform(108, 136),
        front=-rng.uniform(78, 128),
        back=rng.uniform(42, 54),
        wall=rng.uniform(8, 15),
        fat=float(np.clip(rng.lognormal(2.6, 0.6), 4, 45)),
        top=rng.uniform(98, 132),
        organ=rng.uniform(0.88, 1.1),
        roundness=rng.uniform(2.1, 2.7),
    )


def sample_hu(rng: np.random.Generator, phase: str) -> dict[str, float]:
    """HU of every material in one patient: uptake and timing vary, and each organ a little."""
    index = PHASES.index(phase)
    uptake = rng.uniform(0.8, 1.25)
    found = dict(_HU_ALWAYS)
    for name, by_phase in _HU_BY_PHASE.items():
        plain, here = by_phase[0], by_phase[index]
        found[name] = plain + (here - plain) * uptake * rng.uniform(0.9, 1.1) + rng.normal(0, 3)
    found["fat"] += rng.normal(0, 4)
    found["bile"] += rng.uniform(-6, 10)
    found["marrow"] += rng.uniform(-60, 60)
    if rng.random() < 0.15:  # a fatty liver is common and turns the usual order of organs around
        found["liver"] -= rng.uniform(15, 45)
    return found


@dataclass(frozen=True, eq=False)
class Patient:
    """What every drawing function needs.

    Attributes:
        canvas, frame, hu, rng: the picture, the sizes, HU of every material, the randomness.
        cavity: signed distance (mm) to the abdominal cavity, on the canvas.
        dome: z (mm) of the diaphragm above or below every voxel of the canvas.
    """

    canvas: Canvas
    frame: Frame
    hu: Mapping[str, float]
    rng: np.random.Generator
    cavity: F32
    dome: F32

    @classmethod
    def admit(
        cls, canvas: Canvas, frame: Frame, hu: Mapping[str, float], rng: np.random.Generator
    ) -> Patient:
        """A patient on an empty canvas."""
        at = canvas.coordinates(canvas.whole)
        return cls(canvas, frame, hu, rng, _cross_section(frame, at), _diaphragm(frame, at))

    def grown(self, box: Box, front: float, back: float, flank: float) -> F32:
        """Signed distance on the box to the cavity grown by mm at its front, back and flanks."""
        return _cross_section(self.frame, self.canvas.coordinates(box), (front, back, flank))

    def under_diaphragm(self, box: Box, gap_mm: float) -> F32:
        """Signed distance on the box to the abdomen, ``gap_mm`` within its borders."""
        z = self.canvas.coordinates(box)[0]
        shape = np.maximum(self.cavity[box], z - self.dome[box]) + gap_mm
        return np.asarray(shape, dtype=np.float32)

    def place(self, z: float, y: float, x: float, spread: float = 4.0) -> Point:
        """A typical position moved to this patient's build, plus a random shift (mm)."""
        depth = -self.frame.front / 100 if y < -20 else 1.0
        build = (z * self.frame.organ, -20 + (y + 20) * depth, x * self.frame.half_width / 122)
        moved = np.asarray(build) + self.rng.normal(0, spread, 3)
        return float(moved[0]), float(moved[1]), float(moved[2])

    def path(self, *points: Point, spread: float = 3.0) -> NDArray[np.float64]:
        """Control points (N, 3) of a tube, each placed by :meth:`place`."""
        return np.array([self.place(*p, spread=spread) for p in points])

    def sizes(self, z: float, y: float, x: float, spread: float = 0.12) -> Point:
        """Radii scaled to this patient, each varied by ``spread``."""
        scaled = np.array([z, y, x]) * self.frame.organ
        moved = scaled * np.exp(self.rng.normal(0, spread, 3))
        a, b, c = moved.tolist()
        return a, b, c

    def lumps(self, box: Box, step_mm: float, sd: float) -> F32:
        """A smooth field that makes a surface (mm) or a texture (HU) uneven."""
        return self.canvas.field(self.rng, box, step_mm, sd)


def _cross_section(
    frame: Frame, at: tuple[F32, F32, F32], grow: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> F32:
    """Signed distance (mm) along the ray from the middle to a superellipse that narrows along z."""
    z, y, x = at
    front, back = frame.front - grow[0], frame.back + grow[1]
    wide = (frame.half_width + grow[2]) * (1 - 0.05 * ((z - 20) / 130) ** 2)
    middle, half = (front + back) / 2, (back - front) / 2
    power = np.float32(frame.roundness)
    across = np.abs(x / wide) ** power + np.abs((y - middle) / half) ** power
    radius = np.maximum(across, 1e-6) ** (1 / power)
    return np.asarray(np.hypot(x, y - middle) * (1 - 1 / radius), dtype=np.float32)


def _diaphragm(frame: Frame, at: tuple[F32, F32, F32]) -> F32:
    """z (mm) of the diaphragm: two domes, the left one lower, low behind and at the sides."""
    _, y, x = at
    half = (frame.back - frame.front) / 2
    radius2 = (x / frame.half_width) ** 2 + ((y - frame.back) / half + 1) ** 2
    behind = np.clip((y - frame.front) / (2 * half), 0, 1)
    side = np.where(x < 0, 0.0, 10.0) + 10 * np.exp(-((x / 22) ** 2))
    drop = 68 * np.minimum(radius2, 1.2) ** 4 * (0.3 + 0.7 * behind)
    return np.asarray(frame.top - side - drop, dtype=np.float32)
