"""The batches that a training step sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.errors import DataError
from imaging.nifti import AIR_HU
from models.labels import BY_NAME, UNKNOWN
from models.preprocess import normalise
from training.augment import augment_input, augment_patch, keeps_place
from training.lesions import plant
from training.losses import UNKNOWN as UNKNOWN_TARGET
from training.losses import fold
from training.prepared import Prepared, merged_values
from training.recipe import Recipe

# On each side of a patch, as a part of it, so that turning and shrinking it brings in real voxels
# instead of padding. A whole number of voxels: the region's centre is the patch's.
_MARGIN = 0.2


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from.

    Attributes:
        images: float32 (N, 1, *space).
        targets: int64 (N, *space), 0 or 1 + the structure's place in the recipe's outputs, or
            ``training.losses.UNKNOWN``.
        folds: int64 (N, C), see :func:`training.losses.fold`; (N, 1) for sigmoid networks.
        tasks: int64 (N,), the recipe's task each sample trains; 0 where it has none.
    """

    images: Tensor
    targets: Tensor
    folds: Tensor
    tasks: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = (t.to(device, non_blocking=True) for t in vars(self).values())
        return Batch(*moved)


class Sampler:
    """Batches by step: the same seed and step give the same batch, whatever came before.

    Args:
        cases: at least one; phantoms are drawn with the recipe's ``phantom_share``.
        recipe: what to draw.
        rank, world: this process among those that share a batch; each draws its own samples of
            it, every ``world``-th from ``rank`` on.

    Raises:
        DataError: no case, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self, cases: Sequence[Prepared], recipe: Recipe, rank: int = 0, world: int = 1
    ) -> None:
        if not cases:
            raise DataError("There is no case to train on; name a data set with --data.")
        if recipe.batch % world:
            raise DataError(
                f"A batch of {recipe.batch} cannot be shared by {world} processes; start a number "
                "that divides it."
            )
        self._real = [c for c in cases if not c.phantom]
        self._phantoms = [c for c in cases if c.phantom]
        self._copied = {} if recipe.copy_share is None else _copied(self._real)
        self._recipe = recipe
        self._mine = range(rank, recipe.batch, world)
        self._channels = channel_table(recipe)
        self._tasks = {id(c): _tasks_of(c, recipe) for c in cases}

    def batch(self, step: int) -> Batch:
        """This process's samples of a step's batch."""
        samples = [self._sample(step, index) for index in self._mine]
        images, targets, folds, tasks = zip(*samples, strict=True)
        return Batch(
            torch.stack(images)[:, None],
            torch.stack(targets),
            torch.stack(folds),
            torch.tensor(tasks),
        )

    def _sample(self, step: int, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        # A generator a sample: what a process draws does not depend on how many share the batch.
        rng = np.random.default_rng([self._recipe.seed, step, index])
        recipe, case = self._recipe, self._choose(rng)
        tasks = self._tasks[id(case)]
        task = tasks[rng.integers(len(tasks))] if tasks else 0
        augment = recipe.augment
        still = keeps_place(augment, rng)
        centre = self._centre(case, task, rng)
        hu, labels = _region(case, centre, recipe.patch, 0.0 if still else _MARGIN)
        for place in rng.permutation(len(case.plantable)):
            if rng.random() < recipe.plant:
                hu, labels, _ = plant(hu, labels, case.spacing, case.plantable[place], rng)
        image, target = augment_patch(
            hu.astype(np.float32), labels, recipe.patch, case.spacing, augment, rng, still
        )
        values = torch.from_numpy(normalise(image.numpy(), case.intensity))
        values = augment_input(values, augment, rng)
        channels = self._channels[target.long()]
        if recipe.patch[0] == 1:
            values, channels = values[0], channels[0]
        return values, channels, self._fold(case), task

    def _fold(self, case: Prepared) -> Tensor:
        if self._recipe.activation == "sigmoid":
            return torch.zeros(1, dtype=torch.int64)
        known = (
            case.annotated if self._recipe.loss.unlabelled == "unknown" else self._recipe.outputs
        )
        return fold(self._recipe.outputs, known)

    def _choose(self, rng: np.random.Generator) -> Prepared:
        share = self._recipe.phantom_share
        phantom = self._phantoms and (not self._real or rng.random() < share)
        pool = self._phantoms if phantom else self._real
        case = pool[rng.integers(len(pool))]
        if case.phantom or case.group not in self._copied:
            return case
        # Whoever has many copies is still drawn as often; only which of the CTs it is changes.
        own, copies = self._copied[case.group]
        pool = copies if rng.random() < (self._recipe.copy_share or 0) else own
        return pool[rng.integers(len(pool))]

    def _centre(self, case: Prepared, task: int, rng: np.random.Generator) -> NDArray[np.int64]:
        recipe = self._recipe
        wanted = recipe.tasks[task] if recipe.tasks else recipe.outputs
        names = sorted(name for name in case.centres if name in wanted)
        if names and rng.random() < recipe.foreground:
            if recipe.foreground_box is not None:
                return _in_box([case.centres[n] for n in names], recipe.foreground_box, case, rng)
            voxels = case.centres[names[rng.integers(len(names))]]
            chosen: NDArray[np.int64] = voxels[rng.integers(len(voxels))]
            return chosen
        centre = np.array([rng.integers(n) for n in case.hu.shape])
        centre[0] = rng.integers(case.slices[0], case.slices[1] + 1)
        if recipe.slab:
            # Whole slices, as the paper's loader cuts them.
            centre[1:] = np.array(case.hu.shape[1:]) // 2
        return centre


@contextmanager
def drawn_ahead(sampler: Sampler, first: int, threads: int) -> Iterator[Iterator[Batch]]:
    """The sampler's batches from a step on, drawn in the background while others are trained on.

    Args:
        sampler: of the batches.
        first: step of the first one.
        threads: how many batches are drawn at a time; each step's batch depends on nothing else,
            so that any number gives the same ones.
    """
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(sampler.batch, first + i) for i in range(threads + 1)]

        def batches() -> Iterator[Batch]:
            step = first + len(waiting)
            while True:
                ready = waiting.pop(0)
                waiting.append(pool.submit(sampler.batch, step))
                step += 1
                yield ready.result()

        try:
            yield batches()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _copied(cases: Sequence[Prepared]) -> dict[str, tuple[list[Prepared], list[Prepared]]]:
    """By patient, where both are there: the CT that has the patient's name, and copies of it."""
    found: dict[str, tuple[list[Prepared], list[Prepared]]] = {}
    for case in cases:
        found.setdefault(case.group, ([], []))[case.name != case.group].append(case)
    return {patient: both for patient, both in found.items() if all(both)}


def channel_table(recipe: Recipe) -> Tensor:
    """Network channel (sigmoid: 1 for the structure) of each label value, int64 (256,)."""
    table = torch.zeros(256, dtype=torch.int64)
    for channel, name in enumerate(recipe.outputs):
        table[BY_NAME[name].value] = channel + 1
    table[UNKNOWN] = UNKNOWN_TARGET
    return table[torch.from_numpy(merged_values(recipe)).long()]


def _tasks_of(case: Prepared, recipe: Recipe) -> list[int]:
    """The tasks whose structures a case annotates.

    Raises:
        DataError: the recipe has tasks and the case serves none.
    """
    known = set(case.annotated)
    found = [i for i, task in enumerate(recipe.tasks) if known >= {n for n in task if n}]
    if recipe.tasks and not found:
        raise DataError(
            f"Case {case.name} annotates {case.annotated}, which is no task of {recipe.name}; "
            "leave it out.",
            case=case.name,
        )
    return found


def _in_box(
    centres: list[NDArray[np.int64]], grown: int, case: Prepared, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A voxel of the box around all centres, grown by so many voxels within the case."""
    voxels = np.concatenate(centres)
    low = np.maximum(voxels.min(0) - grown, 0)
    high = np.minimum(voxels.max(0) + grown, np.array(case.hu.shape) - 1)
    centre: NDArray[np.int64] = rng.integers(low, high + 1)
    return centre


def _region(
    case: Prepared, centre: NDArray[np.int64], patch: tuple[int, int, int], margin: float
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The voxels around a centre, with a margin, air where the case ends."""
    size = [n + 2 * int(n * margin) for n in patch]
    start = [int(c) - n // 2 for c, n in zip(centre, size, strict=True)]
    spans = [
        slice(max(0, s), min(n, s + k)) for s, k, n in zip(start, size, case.hu.shape, strict=True)
    ]
    pads = [
        (max(0, -s), max(0, s + k - n)) for s, k, n in zip(start, size, case.hu.shape, strict=True)
    ]
    hu = np.pad(case.hu[tuple(spans)], pads, constant_values=AIR_HU)
    return hu, np.pad(case.labels[tuple(spans)], pads)
