"""CTs without an abdomen: heads, chests, thighs, water.

A network that has only ever seen abdomens finds a liver in a brain. These are bodies of ellipsoids
with a scanner's noise, drawn anew for every seed; nothing in them is any model's structure. Sizes
and HU are typical ones; assumption. Needs numpy and SimpleITK only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from imaging.errors import BadParameter
from imaging.geometry import Geometry
from imaging.volume import Volume
from training.phantoms.canvas import AIR_HU
from training.shapes import F32, Point, SmoothField, ellipsoid, rotation

# Half of what is drawn along (Z, Y, X).
_HALF_MM = (110.0, 150.0, 190.0)
_ENDLESS_MM = 1e4
_EDGE_MM = 1.5

At = tuple[F32, F32, F32]
Draw = Callable[["_Scene"], None]


class _Scene:
    """HU of bodies that are painted over each other.

    Args:
        rng: of all that varies.
        spacing: mm (Z, Y, X).
    """

    def __init__(self, rng: np.random.Generator, spacing: Point) -> None:
        self.rng = rng
        tilt = rotation((rng.uniform(-12, 12), rng.uniform(-8, 8), rng.uniform(-8, 8)))
        scale = rng.uniform(0.85, 1.15, 3)
        counts = [int(2 * half / s) for half, s in zip(_HALF_MM, spacing, strict=True)]
        lines = [
            (np.arange(n) - (n - 1) / 2) * s / k
            for n, s, k in zip(counts, spacing, scale, strict=True)
        ]
        z, y, x = np.meshgrid(*lines, indexing="ij")
        turned = np.stack([z, y, x], -1) @ tilt.T
        self.at: At = tuple(np.float32(turned[..., a]) for a in range(3))  # type: ignore[assignment]
        self.hu = np.full(z.shape, float(AIR_HU), np.float32)
        self._lines = [np.asarray(line, np.float32) for line in lines]

    def paint(
        self, centre: Point, radii: Point, low: float, high: float, vary: float = 0.1
    ) -> None:
        """An ellipsoid (mm) of a HU drawn between two, with its own slow unevenness."""
        radii = tuple(r * self.rng.uniform(1 - vary, 1 + vary) for r in radii)  # type: ignore[assignment]
        cover = np.clip(0.5 - ellipsoid(self.at, centre, radii) / _EDGE_MM, 0, 1)
        value = self.rng.uniform(low, high) + self._uneven(0.06 * abs(high) + 2)
        self.hu += cover * (value - self.hu)

    def finished(self) -> F32:
        """With noise."""
        sd = self.rng.uniform(3, 30)
        noise = self.rng.standard_normal(self.hu.shape, dtype=np.float32)
        return np.maximum(self.hu + np.float32(sd) * noise, AIR_HU)

    def _uneven(self, sd: float) -> F32:
        z, y, x = self._lines
        ends = [(float(line[0]), float(line[-1])) for line in (z, y, x)]
        low, high = (tuple(end[i] for end in ends) for i in (0, 1))
        return SmoothField(self.rng, low, high, 25.0, sd).on(z, y, x)  # type: ignore[arg-type]


def _head(scene: _Scene) -> None:
    for radii, low, high in (
        ((105, 100, 80), 10, 60),
        ((99, 94, 74), 700, 1400),
        ((92, 87, 67), 25, 60),
    ):
        scene.paint((0, 0, 0), radii, low, high, vary=0.02)
    for side in (-12, 12):
        scene.paint((10, 0, side), (18, 30, 9), 0, 15)
    # Sinuses, and the neck below.
    scene.paint((-60, -60, 0), (20, 25, 30), -1000, -900)
    scene.paint((-130, 20, 0), (70, 60, 55), 20, 80)


def _chest(scene: _Scene) -> None:
    scene.paint((0, 0, 0), (_ENDLESS_MM, 120, 170), -110, -80)
    scene.paint((0, 0, 0), (_ENDLESS_MM, 100, 150), 30, 70)
    for side in (-75, 75):
        scene.paint((0, 0, side), (150, 80, 60), -950, -700)
    # Heart, aorta, spine, breastbone.
    scene.paint((-30, -30, 20), (55, 45, 60), 30, 220)
    scene.paint((0, 55, 18), (_ENDLESS_MM, 12, 12), 35, 350)
    scene.paint((0, 70, 0), (_ENDLESS_MM, 20, 22), 150, 500)
    scene.paint((0, -92, 0), (_ENDLESS_MM, 7, 20), 150, 500)
    for level in range(-4, 5):
        for side in (-135, 135):
            scene.paint((25 * level, 0, side), (5, 70, 5), 300, 800)


def _thighs(scene: _Scene) -> None:
    apart = scene.rng.uniform(60, 95)
    for side in (-apart, apart):
        for radius, low, high in ((75, -120, -80), (60, 40, 75), (15, 800, 1300), (8, -60, 60)):
            scene.paint((0, 0, side), (_ENDLESS_MM, radius, radius), low, high)
        scene.paint((0, 25, 0.6 * side), (_ENDLESS_MM, 6, 6), 40, 300)


def _water(scene: _Scene) -> None:
    radius = scene.rng.uniform(80, 140)
    scene.paint((0, 0, 0), (_ENDLESS_MM, radius, radius), -30, 120)


_DRAWN: Mapping[str, Draw] = {
    "head": _head,
    "chest": _chest,
    "thighs": _thighs,
    "water": _water,
}
STRANGERS: tuple[str, ...] = tuple(_DRAWN)


def make_stranger(kind: str, seed: int, spacing_mm: Point = (3.0, 3.0, 3.0)) -> Volume:
    """A CT that holds none of the abdomen's organs.

    Args:
        kind: of :data:`STRANGERS`.
        seed: of all that varies.
        spacing_mm: (z, y, x).

    Returns:
        HU, int16, on an axial grid.

    Raises:
        BadParameter: no such kind, a negative seed, or a spacing that is not positive.
    """
    if kind not in _DRAWN:
        raise BadParameter(f"There is no stranger {kind[:40]!r}; choose from {STRANGERS}.")
    if seed < 0 or min(spacing_mm) <= 0:
        raise BadParameter(f"seed {seed} must be at least 0, spacing {spacing_mm} mm positive.")
    scene = _Scene(np.random.default_rng([seed, STRANGERS.index(kind)]), spacing_mm)
    _DRAWN[kind](scene)
    hu = np.rint(scene.finished()).astype(np.int16)
    return Volume(hu, Geometry(hu.shape, spacing_mm, (0.0, 0.0, 0.0), np.eye(3)[:, ::-1]))
