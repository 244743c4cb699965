"""The phantom's upper abdomen: every organ, painted back to front.

Positions are (z, y, x) mm from the centre of the second lumbar vertebra, axes to (S, P, L), of an
adult of medium build; they were set by eye and by the organ centroids of ordinary abdominal CTs.
"""

from __future__ import annotations

import numpy as np

from models.labels import BY_NAME
from training.phantoms.body import draw_body
from training.phantoms.canvas import Tube
from training.phantoms.patient import Patient
from training.shapes import F32, Point, ellipsoid, rotated, rotation, smooth_min

DRAWN = (
    "pancreas",
    "kidney",
    "liver",
    "spleen",
    "gallbladder",
    "stomach",
    "duodenum",
    "esophagus",
    "hepatic_vessel",
    "colon",
    "lung",
)


def draw(patient: Patient) -> None:
    """Paint the whole abdomen, back to front: later shapes lie over earlier ones."""
    for part in (
        draw_body,
        _mesentery,
        _small_bowel,
        _colon,
        _stomach,
        _liver,
        _gallbladder,
        _spleen,
        _kidneys,
        _duodenum,
        _great_vessels,
        _pancreas,
        _portal_system,
    ):
        part(patient)


def _hollow(
    p: Patient, tube: Tube, wall_mm: float, content: F32 | float, gas: float, label: int = 0
) -> None:
    """A tube with a wall and a content; ``gas`` is the part of its depth that is above the level.

    The patient lies on the back, so gas and fluid part in a plane of constant y.
    """
    inner = np.maximum(tube.distance, p.under_diaphragm(tube.box, 1.5))
    inner = inner + p.lumps(tube.box, 14, 1.2)
    p.canvas.paint(tube.box, inner, p.hu["bowel_wall"], label)
    inner = inner + np.float32(wall_mm)
    p.canvas.paint(tube.box, inner, content, None)
    if gas > 0:
        level = tube.front - 10 + gas * (tube.back - tube.front + 15)
        over = p.canvas.y[None, tube.box[1], None] - np.float32(level)
        p.canvas.paint(tube.box, np.maximum(inner, over), -950.0, None)


def _bowel_content(p: Patient, tube: Tube, stool: bool) -> F32 | float:
    if stool:
        speckle = p.lumps(tube.box, 4, 160)
        mixture = 20 + speckle - 3 * np.maximum(0, -speckle)
        return np.asarray(np.minimum(mixture, 130), dtype=np.float32)
    if p.rng.random() < 0.25:  # oral contrast
        return float(p.rng.uniform(150, 380))
    return float(p.rng.uniform(5, 40))


def _mesentery(p: Patient) -> None:
    for _ in range(int(p.rng.integers(10, 30))):
        root = (p.rng.uniform(-60, 0), -58.0, 0.0)
        end = (p.rng.uniform(-150, 30), p.rng.uniform(-95, -40), p.rng.uniform(-80, 90))
        middle = tuple(0.5 * (np.asarray(root) + end) + p.rng.normal(0, 10, 3))
        tube = p.canvas.tube(p.path(root, middle, end), np.array([2.2, 1.7, 1.2]))
        p.canvas.paint(tube.box, tube.distance, p.hu["portal_vein"])


def _small_bowel(p: Patient) -> None:
    # Loops are random walks that turn back at the borders of their region.
    for _ in range(int(p.rng.integers(16, 34))):
        at = np.array([p.rng.uniform(-150, 15), p.rng.uniform(-85, -40), p.rng.uniform(-70, 85)])
        points, heading = [at], p.rng.normal(0, 1, 3)
        for _ in range(int(p.rng.integers(4, 9))):
            heading = 0.5 * heading + p.rng.normal(0, 1, 3) * (0.7, 0.7, 1.0)
            at = np.clip(at + 22 * heading, (-190, -88, -85), (15, -38, 95))
            points.append(at)
        path = p.path(*[(float(a), float(b), float(c)) for a, b, c in points])
        radius = p.rng.uniform(8, 14) * np.exp(p.rng.normal(0, 0.1, len(path)))
        tube = p.canvas.tube(path, radius)
        gas = p.rng.uniform(0.1, 0.6) if p.rng.random() < 0.3 else 0.0
        _hollow(p, tube, p.rng.uniform(2, 5), _bowel_content(p, tube, False), gas)


def _colon(p: Patient) -> None:
    ascending = p.path((-200, -5, -92), (-90, -8, -98), (-40, -25, -92), (-32, -55, -80), spread=7)
    transverse = p.path(
        (-32, -60, -78),
        (-40, -95, -40),
        (-50, -98, 5),
        (-25, -95, 50),
        (25, -60, 90),
        (38, -20, 105),
        spread=8,
    )
    descending = p.path((38, -20, 105), (0, 10, 108), (-70, 12, 105), (-200, 0, 98), spread=6)
    for path, mean in ((ascending, 22), (transverse, 18), (descending, 14)):
        radius = mean * p.rng.uniform(0.7, 1.25) * np.exp(p.rng.normal(0, 0.15, len(path)))
        tube = p.canvas.tube(path, radius)
        stool = p.rng.random() < 0.8
        gas = p.rng.uniform(0.05, 0.6) if p.rng.random() < 0.6 else 0.0
        content = _bowel_content(p, tube, stool)
        _hollow(p, tube, 2.5, content, gas, BY_NAME["colon"].value)


def _stomach(p: Patient) -> None:
    label = BY_NAME["stomach"].value
    esophagus = p.canvas.tube(
        p.path((260, -44, 2), (p.frame.top, -46, 6), (82, -40, 26)), np.array([8.0, 8.0, 8.0])
    )
    p.canvas.paint(esophagus.box, esophagus.distance, p.hu["muscle"], BY_NAME["esophagus"].value)
    path = p.path(
        (86, -12, 60),
        (74, -38, 62),
        (48, -68, 60),
        (22, -84, 42),
        (8, -82, 8),
        (10, -62, -22),
        spread=6,
    )
    fill = p.rng.uniform(0.65, 1.25)
    radius = np.array([30, 32, 29, 24, 17, 11]) * fill * np.exp(p.rng.normal(0, 0.08, 6))
    tube = p.canvas.tube(path, radius)
    gas = p.rng.uniform(-0.1, 0.45)
    content = _bowel_content(p, tube, p.rng.random() < 0.3)
    _hollow(p, tube, p.rng.uniform(3, 7), content, gas, label)


def _liver(p: Patient) -> None:
    box = p.canvas.box((-110, -150, -160), (150, 90, 110))
    z, y, x = at = p.canvas.coordinates(box)
    right = ellipsoid(at, p.place(42, -16, -72, 6), p.sizes(94, 92, 82))
    left = ellipsoid(
        at, p.place(74, -62, 8, 8), p.sizes(32, 36, 66, spread=0.18), rotation((0, 0, 8))
    )
    cut = 0.74 * (x + p.rng.uniform(48, 68)) - 0.68 * z + 0.12 * (y + 20)
    right = -smooth_min(-right, -cut, 25)
    shape = smooth_min(right, left, 22) + p.lumps(box, 40, 3)
    shape = np.maximum(shape, p.under_diaphragm(box, 2.5))
    parenchyma = p.hu["liver"] + p.lumps(box, 30, 3) + p.lumps(box, 6, 4)
    p.canvas.paint(box, shape - 2, p.hu["fat"])
    p.canvas.paint(box, shape, parenchyma, BY_NAME["liver"].value)
    inside = p.canvas.labels == BY_NAME["liver"].value
    root = p.place(45, -35, -42)
    for _ in range(9):  # portal branches and hepatic veins end at random places in the liver
        start = root if p.rng.random() < 0.6 else (88.0, -10.0, -22.0)
        end = p.place(p.rng.uniform(5, 95), p.rng.uniform(-80, 40), p.rng.uniform(-115, 20))
        bend = 0.5 * (np.asarray(start) + end) + p.rng.normal(0, 8, 3)
        vessel = p.canvas.tube(np.array([start, bend, end]), np.array([5.0, 3.5, 1.5]))
        distance = np.where(inside[vessel.box], vessel.distance, 99).astype(np.float32)
        mixed = 0.8 * p.hu["portal_vein"] + 0.2 * p.hu["liver"]
        p.canvas.paint(vessel.box, distance, mixed, BY_NAME["hepatic_vessel"].value)


def _gallbladder(p: Patient) -> None:
    if p.rng.random() < 0.1:  # removed
        return
    path = p.path((28, -45, -48), (14, -62, -56), (-4, -76, -60), spread=5)
    tube = p.canvas.tube(path, np.array([6, 12, 14]) * p.rng.uniform(0.7, 1.25))
    p.canvas.paint(tube.box, tube.distance, p.hu["bowel_wall"], BY_NAME["gallbladder"].value)
    p.canvas.paint(tube.box, tube.distance + 1.5, p.hu["bile"], None)


def _spleen(p: Patient) -> None:
    box = p.canvas.box((-60, -110, 20), (150, 90, 170))
    at = p.canvas.coordinates(box)
    centre = p.place(60, 6, 96, 6)
    tilt = rotation((p.rng.normal(25, 10), p.rng.normal(0, 10), p.rng.normal(20, 12)))
    radii = p.sizes(56, 52, 34, spread=0.14)
    outer = ellipsoid(at, centre, radii, tilt) + p.lumps(box, 25, 2.5)
    hollow = ellipsoid(at, (centre[0], centre[1] - 14, centre[2] - 52), (64, 44, 34))
    shape = np.maximum(-smooth_min(-outer, hollow, 8), p.under_diaphragm(box, 3))
    p.canvas.paint(box, shape - 2, p.hu["fat"])
    mottled = 3.0 + 0.12 * max(0.0, p.hu["artery"] - 170)
    texture = p.hu["spleen"] + p.lumps(box, 14, mottled) + p.lumps(box, 6, 3)
    p.canvas.paint(box, shape, texture, BY_NAME["spleen"].value)


def _kidneys(p: Patient) -> None:
    for side, height in ((-1, -8.0), (1, 4.0)):
        _kidney(p, side, p.place(height, 18, 62 * side, 5))


def _kidney(p: Patient, side: int, centre: Point) -> None:
    reach = np.full(3, 85.0)
    box = p.canvas.box(tuple(np.subtract(centre, reach)), tuple(np.add(centre, reach)))
    at = p.canvas.coordinates(box)
    # The upper pole leans to the spine and backwards; the hilum looks forward and inward.
    turn = p.rng.normal(35, 12) * side
    tilt = rotation((0, p.rng.normal(12, 5) * side, p.rng.normal(-12, 6))).T
    tilt = rotation((turn, 0, 0)).T @ tilt
    length, thick, broad = p.sizes(54, 23, 26, spread=0.09)
    along, depth, out = rotated(at, centre, tilt)
    out = out * side + 10 * (along / length) ** 2 - 3
    outer = ellipsoid((along, depth, out), (0, 0, 0), (length, thick, broad)) + p.lumps(
        box, 22, 1.4
    )
    sinus = ellipsoid((along, depth, out), (0, 0, -broad * 0.75), (length * 0.42, 9, broad * 0.72))
    sinus = sinus + p.lumps(box, 12, 2.5)
    p.canvas.paint(box, outer - p.rng.uniform(1.5, 5), p.hu["fat"] + p.lumps(box, 8, 4))
    pyramids = (p.lumps(box, 9, 1) > -0.1) & (outer < -6.5) & (sinus > 2)
    inner = np.where(pyramids, p.hu["medulla"], p.hu["cortex"]) + p.lumps(box, 7, 5)
    kidney = np.maximum(outer, -sinus)
    p.canvas.paint(box, kidney, inner, BY_NAME["kidney"].value)
    p.canvas.paint(box, np.maximum(sinus, outer), p.hu["fat"])
    pelvis = ellipsoid((along, depth, out), (0, 0, -broad * 0.55), (length * 0.24, 5, broad * 0.45))
    p.canvas.paint(box, pelvis + p.lumps(box, 10, 2), p.hu["urine"])
    cz, cy, cx = centre
    vein = p.canvas.tube(
        np.array([(cz, cy - 12, cx - 16 * side), (cz + 4, -32, cx - 36 * side), (8, -34, -12.0)]),
        np.array([4.5, 4.5, 5.0]),
    )
    p.canvas.paint(vein.box, vein.distance, p.hu["cava"] * 0.5 + p.hu["portal_vein"] * 0.5)


def _duodenum(p: Patient) -> None:
    path = p.path(
        (10, -62, -24),
        (14, -52, -40),
        (6, -40, -50),
        (-20, -36, -54),
        (-44, -36, -46),
        (-54, -38, -20),
        (-50, -44, 12),
        (-32, -52, 30),
        spread=4,
    )
    radius = np.array([11, 12, 12, 12, 12, 11, 11, 10]) * p.rng.uniform(0.8, 1.2)
    tube = p.canvas.tube(path, radius)
    p.canvas.paint(tube.box, tube.distance - 2, p.hu["fat"])
    gas = p.rng.uniform(0.1, 0.6) if p.rng.random() < 0.35 else 0.0
    _hollow(p, tube, 3.0, _bowel_content(p, tube, False), gas, BY_NAME["duodenum"].value)


def _great_vessels(p: Patient) -> None:
    lean = p.rng.normal(0, 3)
    aorta = np.array(
        [(300, -26, 6), (90, -29, 5), (0, -30, 6 + lean), (-90, -30, 4 + lean), (-130, -28, 2)]
    )
    cava = np.array(
        [(300, -40, -20), (105, -30, -22), (40, -30, -22), (-40, -30, -20), (-130, -28, -16)]
    )
    wide = p.rng.uniform(0.8, 1.25)
    for path, radius, name in (
        (aorta, 10.5 * wide, "artery"),
        (cava, p.rng.uniform(7, 13), "cava"),
    ):
        tube = p.canvas.tube(path + p.rng.normal(0, 1.5, path.shape), np.full(len(path), radius))
        p.canvas.paint(tube.box, tube.distance - 1.5, p.hu["fat"])
        p.canvas.paint(tube.box, tube.distance, p.hu[name])
        if name == "artery" and p.rng.random() < 0.4:  # plaques
            speck = np.maximum(np.abs(tube.distance), 1.2 - p.lumps(tube.box, 7, 1))
            p.canvas.paint(tube.box, speck - 0.8, 600.0, None)


def _pancreas(p: Patient) -> None:
    path = p.path(
        (-40, -36, -24),
        (-24, -42, -36),
        (-4, -46, -32),
        (8, -58, -12),
        (16, -62, 12),
        (26, -48, 40),
        (36, -28, 64),
        (46, -12, 84),
        spread=4,
    )
    lift = p.rng.normal(0, 12)  # the tail may rise or sag
    path[4:, 0] += lift * np.linspace(0.2, 1, 4)
    radius = np.array([8, 13, 14, 9, 9, 9.5, 9, 7]) * p.rng.uniform(0.75, 1.2)
    tube = p.canvas.tube(path, radius * np.exp(p.rng.normal(0, 0.1, len(path))))
    atrophy = p.rng.uniform(0.5, 2.2)
    lobes = tube.distance + p.lumps(tube.box, 5, atrophy) + p.lumps(tube.box, 18, 1.5)
    p.canvas.paint(tube.box, tube.distance - p.rng.uniform(1, 5), p.hu["fat"])
    fatty = np.clip(p.lumps(tube.box, 4, 1) - 1.2, 0, 1) * p.rng.uniform(0, 60)
    texture = p.hu["pancreas"] + p.lumps(tube.box, 5, 7) - fatty
    p.canvas.paint(tube.box, lobes, texture, BY_NAME["pancreas"].value)


def _portal_system(p: Patient) -> None:
    junction = p.place(4, -46, -10, 2)
    splenic = p.path((22, -44, 30), (36, -20, 62), (48, -4, 78))
    portal = p.path((28, -36, -30), (45, -35, -42))
    mesenteric = p.path((-25, -54, -8), (-70, -60, -4), (-130, -60, 0))
    artery = p.path((8, -40, 5), (-10, -56, 6), (-60, -62, 8), (-130, -62, 10), spread=2)
    celiac = p.path((30, -36, 5), (34, -50, 4), (40, -52, -14), spread=2)
    for path, radius, name in (
        (np.vstack([junction, portal]), 7.0, "portal_vein"),
        (np.vstack([junction, splenic]), 4.0, "portal_vein"),
        (np.vstack([junction, mesenteric]), 5.5, "portal_vein"),
        (artery, 3.5, "artery"),
        (celiac, 3.5, "artery"),
    ):
        tube = p.canvas.tube(path, np.full(len(path), radius * p.rng.uniform(0.8, 1.2)))
        p.canvas.paint(tube.box, tube.distance, p.hu[name])
