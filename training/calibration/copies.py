"""What a model is tried on: a case it has not seen, changed copies, and CTs without an abdomen.

Five cases are too few to fit anything on. Copies vary what makes a model fail (noise, phase, a scan
that ends within the organs), and strangers hold nothing that it looks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.resample import resample_nearest
from imaging.volume import Volume, to_canonical
from models.manifest import Sampling
from models.preprocess import to_model_grid
from training.assess.changes import (
    Changed,
    cut,
    enhancement,
    noise_field,
    noisy,
    turned,
    washed_out,
)
from training.cases import Loaded
from training.phantoms import STRANGERS, make_phantom, make_stranger
from training.planting.cases import plant_case, taken_free
from training.planting.shapes import Shapes

# The name of a case's copy in which nothing is changed.
AS_IS = "as is"
# Standard deviation of the noise on the model's grid, where a voxel holds many of a scanner's.
_NOISE_HU = (10.0, 30.0)
# The part of the contrast agent's brightening that is left.
_WASHED = (0.0, 0.5)
# The part of the organs' slices that is left: the lower ones where negative.
_CUT = (-0.3, -0.6, 0.3, 0.6)
# An axis (0 is the patient's own) and degrees: on another table than the training's.
_TURNED = ((0, 12.0), (2, -12.0))
# A chest of less is no chest.
_CHEST_MM = 40.0


@dataclass(frozen=True, eq=False)
class Copy:
    """A CT and what is true of it.

    Attributes:
        name: how it was made; ``as is`` of the case itself.
        image, truth: HU and labels, each on its own grid.
        annotated: structures whose every voxel is labelled.
        stranger: none of any model's organs is in it.
        made: a lesion in it is, or all of it.
    """

    name: str
    image: Volume
    truth: Volume
    annotated: tuple[str, ...]
    stranger: bool = False
    made: bool = False


def copies_of(
    case: Loaded, sampling: Sampling, rng: np.random.Generator, lesion_free: bool = False
) -> Iterator[Copy]:
    """A case as it is and changed, on the model's grid: what prediction does there is the same.

    Args:
        case: that the model has not seen.
        sampling: of the model.
        rng: of the noise.
        lesion_free: it has none of the lesions that it has no labels of, as where some are planted.
    """
    annotated = taken_free(case.annotated) if lesion_free else case.annotated
    image = to_model_grid(case.image, sampling)
    truth = resample_nearest(to_canonical(case.labels), image.geometry)
    own = Changed(image, truth)
    field, enhanced = noise_field(image, rng), enhancement(image)
    made = {AS_IS: own}
    made |= {f"noise of {sd:g} HU": noisy(own, field, sd) for sd in _NOISE_HU}
    made |= {f"{left:.0%} of the contrast": washed_out(own, enhanced, left) for left in _WASHED}
    made |= {f"{'lower' if c < 0 else 'upper'} {abs(c):.0%}": cut(own, c) for c in _CUT}
    made |= {f"turned {d:g} degrees about axis {a}": turned(own, a, d) for a, d in _TURNED}
    for name, changed in made.items():
        yield Copy(name, changed.image, changed.truth, annotated)


def planted_copies(
    case: Loaded, shapes: Shapes, count: int, rng: np.random.Generator
) -> Iterator[Copy]:
    """A case with real lesions' shapes planted at its own resolution, several times over."""
    for index in range(count):
        made = plant_case(case, shapes, rng)
        yield Copy(f"planted {index + 1}", made.image, made.labels, made.annotated, made=True)


def phantom_copies(sampling: Sampling, count: int, rng: np.random.Generator) -> Iterator[Copy]:
    """Phantoms with lesions, near the model's spacing."""
    z, y, x = (mm or 4.0 for mm in sampling.spacing_mm)
    for index in range(count):
        seed = int(rng.integers(2**31))
        made = make_phantom(seed, tumors=True, spacing_mm=(z, y, x))
        yield Copy(f"phantom {index + 1}", made.volume, made.labels, made.annotated, made=True)


def strangers(
    case: Loaded, sampling: Sampling, rng: np.random.Generator, outputs: tuple[str, ...]
) -> Iterator[Copy]:
    """CTs that hold none of the organs.

    The case's own chest, where it shows enough of one, and its CT with inverted HU; made ones of
    every kind, of other seeds than any training's.
    """
    image = to_model_grid(case.image, sampling)
    truth = resample_nearest(to_canonical(case.labels), image.geometry).array
    found = {"inverted": image.with_array(-image.array.astype(np.float32))}
    chest = _above(image, truth)
    if chest is not None:
        found["chest"] = chest
    found |= {f"made {kind}": make_stranger(kind, int(rng.integers(10**6))) for kind in STRANGERS}
    for name, volume in found.items():
        empty = volume.with_array(np.zeros(volume.array.shape, np.uint8))
        yield Copy(name, volume, empty, outputs, stranger=True, made=True)


def _above(image: Volume, truth: NDArray[np.uint8]) -> Volume | None:
    """The slices above the highest labelled one."""
    last = int(np.flatnonzero(truth.any(axis=(1, 2)))[-1]) + 1
    part = image.array[last:]
    if len(part) * image.geometry.spacing[0] < _CHEST_MM:
        return None
    return Volume(part, image.geometry.crop((last, 0, 0), part.shape))
