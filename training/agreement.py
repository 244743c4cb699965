"""Self-training by agreement: labels are trusted where a model that never saw them says the same.

Pseudo-labels come from public models and thresholds, and leak where those do. A network trained on
other cases has other faults; where the two disagree by more than an edge's width, nobody knows,
and the voxel is marked so. The loss leaves it out, and the next model is trained on what is left.

The CT itself is the third witness: what a model marks where the labels have nothing, and which is
neither as dark or bright as the structure is elsewhere nor enclosed by it, is the model's mistake.
Without it the bowel that a model takes for a kidney would be unknown, and never be unlearned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_erosion,
    binary_fill_holes,
    distance_transform_edt,
    generate_binary_structure,
    uniform_filter,
)

from imaging.errors import BadParameter
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME, UNKNOWN, structure
from models.onnxfile import read_manifest
from models.predict import predict
from training.cases import Case, Loaded, load
from training.datasets import ct_index
from training.datasets.subset import visible_values, write_image
from training.metrics import dice, mask_of
from training.package import onnx_scorer
from training.runs import MODEL

# Below this Dice the model is no witness: the structure's labels stay as they are.
_CREDIBLE = 0.5
# A structure's mean HU in cubes of this side lie between these percentiles, or so near to them.
_CUBE_MM, _RANGE, _NEAR_HU = 10.0, (10.0, 90.0), 10.0

# A case's label map by a model that has not seen the case.
Witness = Callable[[Loaded], NDArray[np.uint8]]


@dataclass(frozen=True)
class Agreement:
    """How far the labels and the model agree on one structure of a case.

    Attributes:
        case, structure: names.
        dice: of labels and model.
        unknown_ml: of what either calls the structure, how much is unknown now.
        credible: whether the model was listened to.
    """

    case: str
    structure: str
    dice: float
    unknown_ml: float
    credible: bool


def agreed(
    case: Loaded,
    witness: NDArray[np.uint8],
    edge_mm: float = 2.0,
    structures: Sequence[str] = (),
) -> tuple[NDArray[np.uint8], list[Agreement]]:
    """A case's labels with the voxels unknown that a model calls otherwise.

    Disagreement along an edge is no news; only what is thicker than twice ``edge_mm`` becomes
    unknown. What the model alone calls a structure stays as labelled unless its HU are the
    structure's own, or the structure's label surrounds it in its slice.

    Args:
        case: with its labels (values of ``models.labels``).
        witness: uint8 (Z, Y, X), the model's labels on the case's grid; structures that the case
            does not annotate count as what they look like there.
        edge_mm: half the thickness of a disagreement that is left alone.
        structures: the model is listened to about these alone; about all where none is named.

    Returns:
        uint8 (Z, Y, X) labels, and what became of each annotated structure.
    """
    table = visible_values(case.annotated)
    given, other = table[case.labels.array], table[witness]
    found, names = [], [n for n in case.annotated if (given == BY_NAME[n].value).any()]
    for name in names:
        match = dice(mask_of(other, name), mask_of(given, name))
        credible = match >= _CREDIBLE and (not structures or name in structures)
        found.append(Agreement(case.name, name, match, 0.0, credible))
        if not credible:
            either = np.isin(given, BY_NAME[name].value) | np.isin(other, BY_NAME[name].value)
            other[either] = given[either]
    for name in names:
        _overrule(other, given, case, BY_NAME[name].value)
    unknown = _thick(given != other, case.labels.geometry.spacing, edge_mm)
    labels = case.labels.array.copy()
    labels[unknown] = UNKNOWN
    ml = case.labels.geometry.voxel_ml
    return labels, [_with_volume(one, given, other, unknown, ml) for one in found]


def write_agreed(
    cases: Sequence[Case],
    out: Path,
    witness: Callable[[Case], Witness],
    edge_mm: float = 2.0,
    structures: Sequence[str] = (),
) -> list[Agreement]:
    """Write cases with the voxels unknown on which labels and models disagree.

    Args:
        cases: of any layout.
        out: a new or empty folder; it gets the layout of ``ct_index``.
        witness: for a case, a model that has not seen it.
        edge_mm, structures: as in :func:`agreed`.

    Raises:
        BadParameter: a folder that is not empty, or a structure that there is not.
        DataError: of :func:`training.cases.load`.
    """
    if out.exists() and any(out.iterdir()):
        raise BadParameter(f"{out} is not empty; name a new folder, a set is never mixed.")
    for name in structures:
        structure(name)
    entries: list[dict[str, Any]] = []
    found: list[Agreement] = []
    for case in cases:
        read = load(case)
        labels, agreements = agreed(read, witness(case)(read), edge_mm, structures)
        found += agreements
        write_image(case.image, read, out / case.name)
        write_nifti(read.labels.with_array(labels), out / case.name / "label.nii.gz")
        entry = ct_index.entry_of(case, case.annotated)
        entry["label"] = f"{entry['label']}; unknown where a model trained without it disagrees"
        entries.append(entry)
    ct_index.write_index(out, entries)
    return found


def left_out(runs: Path) -> Callable[[Case], Witness]:
    """The witnesses that a leave-one-out cross-validation makes: each case's own left-out model.

    Args:
        runs: folder of ``islet crossvalidate``, one run a case.

    Raises:
        BadParameter: (when asked) no model was trained without the case.
    """

    def of(case: Case) -> Witness:
        path = runs / case.name / MODEL
        if not path.is_file():
            raise BadParameter(
                f"{runs} holds no model trained without {case.name}; run `islet crossvalidate` on "
                "these cases."
            )
        manifest, scorer = read_manifest(path), onnx_scorer(path)
        return lambda read: predict(read.image, manifest, scorer).labels.array

    return of


def table(found: Iterable[Agreement]) -> str:
    """A Markdown table, a row for each case and structure."""
    lines = ["| case | structure | Dice | unknown, ml | |", "|---|---|---|---|---|"]
    for one in found:
        note = "" if one.credible else "model not listened to"
        lines.append(
            f"| {one.case} | {one.structure} | {one.dice:.3f} | {one.unknown_ml:.1f} | {note} |"
        )
    return "\n".join(lines)


def _overrule(other: NDArray[np.uint8], given: NDArray[np.uint8], case: Loaded, value: int) -> None:
    """Take back, in place, what a model calls a structure against labels and CT."""
    alone = (other == value) & (given == 0)
    if not alone.any():
        return
    inside = given == value
    low, high = np.percentile(_levels(case.image, inside), _RANGE)
    hu = _levels(case.image, alone)
    wrong = alone.copy()
    wrong[alone] = (hu < low - _NEAR_HU) | (hu > high + _NEAR_HU)
    other[wrong & ~_enclosed(inside)] = 0


def _levels(image: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """For each voxel of a mask, the mean HU of the mask's voxels around it; (n,)."""
    side = [max(1, round(_CUBE_MM / s)) for s in image.geometry.spacing]
    sums = uniform_filter(np.where(mask, image.array, 0).astype(np.float32), side)
    parts = uniform_filter(mask.astype(np.float32), side)
    return np.asarray(sums[mask] / parts[mask], np.float32)


def _enclosed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (Z, Y, X) with what it surrounds within each slice."""
    flat = np.zeros((3, 3, 3), bool)
    flat[1] = generate_binary_structure(2, 1)
    return np.asarray(binary_fill_holes(mask, flat))


def _thick(
    mask: NDArray[np.bool_], spacing: tuple[float, float, float], edge_mm: float
) -> NDArray[np.bool_]:
    """The parts of a mask that are thicker than this on both sides, with all that is near them."""
    if not mask.any():
        return mask
    core: NDArray[np.bool_] = binary_erosion(mask, _ball(edge_mm, spacing))
    if not core.any():
        return core
    # From the core back to the part's edges and corners.
    reach = 2 * edge_mm + max(spacing)
    return np.asarray(mask & (distance_transform_edt(~core, sampling=spacing) <= reach))


def _ball(radius_mm: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """The voxels that a ball around a voxel's centre reaches into, not only to its surface.

    From centre to centre, a part of a single thick slice would have no depth at all.
    """
    gaps = []
    for step in spacing:
        count = int(radius_mm // step) + 1
        gaps.append(np.maximum(np.abs(np.arange(-count, count + 1)) * step - step / 2, 0))
    squares = np.square(np.stack(np.meshgrid(*gaps, indexing="ij"))).sum(0)
    ball: NDArray[np.bool_] = squares < radius_mm**2
    return ball


def _with_volume(
    one: Agreement,
    given: NDArray[np.uint8],
    other: NDArray[np.uint8],
    unknown: NDArray[np.bool_],
    voxel_ml: float,
) -> Agreement:
    value = BY_NAME[one.structure].value
    count = np.count_nonzero(unknown & ((given == value) | (other == value)))
    return Agreement(one.case, one.structure, one.dice, float(count) * voxel_ml, one.credible)
