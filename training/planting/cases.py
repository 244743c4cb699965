"""Real lesions planted into a whole case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imaging.errors import BadParameter
from imaging.geometry import Geometry
from imaging.volume import Volume, from_canonical, to_canonical
from training.cases import Loaded
from training.lesions.kinds import Kind, Lesion, organ_of
from training.planting.real import plant_real
from training.planting.shapes import Shapes

REAL: tuple[Kind, ...] = ("pancreas_tumor", "kidney_tumor", "kidney_cyst")


@dataclass(frozen=True)
class PlantedLesion:
    """A planted lesion in the patient.

    Attributes:
        kind: its structure's name.
        centre_mm: of mass, LPS (x, y, z).
        diameter_mm: of the sphere that has its volume.
        volume_ml: of its label.
        shape: name of the real lesion whose form it has.
    """

    kind: Kind
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float
    shape: str


@dataclass(frozen=True, eq=False)
class Planted:
    """A case with lesions in it.

    Attributes:
        image: HU on the case's own grid.
        labels: values of ``models.labels`` on that grid.
        annotated: the case's, and the lesions of its organs: the CT is taken as free of others.
        lesions: what was planted; none where no organ has room.
    """

    image: Volume
    labels: Volume
    annotated: tuple[str, ...]
    lesions: tuple[PlantedLesion, ...]


def plant_case(
    case: Loaded,
    shapes: Shapes,
    rng: np.random.Generator,
    kinds: tuple[Kind, ...] = REAL,
    count: tuple[int, int] = (1, 3),
    diameter_mm: tuple[float, float] | None = None,
) -> Planted:
    """Plant lesions into a case, each where its shape sat in its own organ.

    Args:
        case: CT or phantom with its labels; taken as free of lesions it has no labels for.
        shapes: the library.
        rng: source of everything random.
        kinds: which lesions; one of a kind is planted only where its organ is annotated.
        count: least and most lesions; fewer where there is no room.
        diameter_mm: range of their diameters; as the shapes are where ``None``.

    Raises:
        BadParameter: a kind without real shapes, none that the library holds, or a count or range
            that is none.
    """
    _check(shapes, kinds, count, diameter_mm)
    image, labels = to_canonical(case.image), to_canonical(case.labels)
    hu, marked, found = image.array, labels.array, []
    possible = [k for k in kinds if organ_of(k) in case.annotated and shapes.of(k)]
    spacing, wanted = image.geometry.spacing, int(rng.integers(count[0], count[1] + 1))
    for _ in range(wanted):
        if not possible:
            break
        kind = possible[int(rng.integers(len(possible)))]
        size = None if diameter_mm is None else float(np.exp(rng.uniform(*np.log(diameter_mm))))
        hu, marked, lesion = plant_real(hu, marked, spacing, kind, rng, shapes, size)
        if lesion is not None:
            found.append(_in_patient(lesion, image.geometry))
        if kind == "pancreas_tumor":
            # A second cancer of the pancreas is no common finding.
            possible.remove(kind)
    return Planted(
        from_canonical(image.with_array(hu), case.image.geometry),
        from_canonical(labels.with_array(marked), case.labels.geometry),
        taken_free(case.annotated),
        tuple(found),
    )


def taken_free(annotated: Sequence[str]) -> tuple[str, ...]:
    """What is annotated, and the lesions of its organs: there are none where none are labelled."""
    free = (k for k in REAL if organ_of(k) in annotated and k not in annotated)
    return (*annotated, *free)


def _check(
    shapes: Shapes,
    kinds: tuple[Kind, ...],
    count: tuple[int, int],
    diameter_mm: tuple[float, float] | None,
) -> None:
    unknown = sorted(set(kinds) - set(REAL))
    if unknown or not kinds:
        raise BadParameter(
            f"There are no real shapes of {unknown or 'nothing'}; choose from {', '.join(REAL)}."
        )
    if not any(shapes.of(kind) for kind in kinds):
        raise BadParameter(
            f"The {shapes.part} part of the shapes holds none of {', '.join(kinds)}; name another "
            "folder or kind."
        )
    if not 0 <= count[0] <= count[1]:
        raise BadParameter(f"count {count} must be the least and the most lesions, from 0 on.")
    if diameter_mm is not None and not 0 < diameter_mm[0] <= diameter_mm[1]:
        raise BadParameter(f"diameter_mm {diameter_mm} must be a range of positive mm.")


def _in_patient(lesion: Lesion, grid: Geometry) -> PlantedLesion:
    x, y, z = grid.to_world(lesion.centre).tolist()
    return PlantedLesion(lesion.kind, (x, y, z), lesion.diameter_mm, lesion.volume_ml, lesion.shape)
