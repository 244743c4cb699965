"""What a training step sees: the right voxels, the right channels, the same at every visit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from imaging.errors import DataError
from imaging.volume import Volume
from models.labels import BY_NAME
from models.manifest import Intensity, Sampling
from tests.training.tiny import HU, cases, flat, grid, loaded, volumetric
from training.cases import Loaded
from training.losses import UNKNOWN
from training.prepared import Prepared, prepare
from training.recipe import Augment, Loss, Recipe
from training.samples import Batch, Sampler, channel_table, drawn_ahead

PLAIN = Augment()


def parts(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch.images, batch.targets, batch.folds


def made(
    hu: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    annotated: tuple[str, ...] = ("pancreas", "kidney"),
    phantom: bool = False,
) -> Prepared:
    where = grid(hu.shape)
    case = Loaded("made", Volume(hu, where), Volume(labels, where), annotated)
    return prepare(case, recipe, phantom)


@pytest.mark.parametrize("recipe", [volumetric(batch=2), flat()])
def test_a_step_is_the_same_whatever_came_before(recipe: Recipe) -> None:
    fresh, used = (Sampler(cases(recipe), recipe) for _ in range(2))
    for step in range(3):
        used.batch(step)
    for one, other in zip(parts(fresh.batch(7)), parts(used.batch(7)), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(parts(fresh.batch(7))[0], parts(fresh.batch(8))[0])
    other_seed = Sampler(cases(recipe), dataclasses.replace(recipe, seed=11))
    assert not torch.equal(parts(fresh.batch(7))[0], parts(other_seed.batch(7))[0])


def test_shapes() -> None:
    three = volumetric(batch=3)
    images, targets, folds = parts(Sampler(cases(three), three).batch(0))
    assert images.shape == (3, 1, 16, 16, 16)
    assert targets.shape == (3, 16, 16, 16)
    assert folds.shape == (3, 3)
    assert (images.dtype, targets.dtype, folds.dtype) == (
        torch.float32,
        torch.int64,
        torch.int64,
    )
    images, targets, _ = parts(Sampler(cases(flat()), flat()).batch(0))
    assert images.shape == (2, 1, 16, 16)
    assert targets.shape == (2, 16, 16)


@pytest.mark.parametrize("patch", [(16, 16, 16), (48, 40, 56), (8, 64, 8)])
def test_voxels_and_targets_belong_together_to_the_edges(patch: tuple[int, int, int]) -> None:
    """Every voxel's HU tells its target, air beyond the case included."""
    recipe = volumetric(augment=PLAIN, patch=patch, foreground=0.3)
    labels = np.zeros((24, 28, 32), np.uint8)
    labels[:4, :6, :8], labels[-5:, -6:, -9:] = 1, 3
    hu = np.select([labels == 1, labels == 3], [100, 200], 0).astype(np.int16)
    sampler = Sampler([made(hu, labels, recipe)], recipe)
    air = 0
    for step in range(12):
        images, targets, _ = parts(sampler.batch(step))
        seen = (images[0, 0].numpy() + 1) * 200 - 160
        expected = np.select([targets[0] == 1, targets[0] == 2], [100, 200], 0)
        inside = seen > -150
        assert np.allclose(seen[inside], expected[inside], atol=0.1)
        assert not targets[0].numpy()[~inside].any()
        air += int((~inside).sum())
        if patch == (48, 40, 56):
            # A patch larger than the case in every axis holds much air.
            assert (~inside).mean() > 0.5
    assert air > 0, "patches reach over the edge"


def test_foreground_patches_are_centred_on_each_structure_in_turn() -> None:
    recipe = volumetric(augment=PLAIN, foreground=1.0)
    sampler = Sampler(cases(recipe, 1), recipe)
    centres = [int(parts(sampler.batch(step))[1][0, 8, 8, 8]) for step in range(40)]
    assert 0 not in centres
    assert 8 < centres.count(1) < 32


def test_phantoms_have_their_share() -> None:
    recipe = volumetric(augment=PLAIN, patch=(4, 4, 4), batch=50, phantom_share=0.25, phantoms=1)
    zeros, labels = np.zeros((8, 8, 8), np.int16), np.ones((8, 8, 8), np.uint8)
    real = made(zeros, labels, recipe)
    phantom = made(zeros + 100, labels, recipe, phantom=True)
    both = torch.cat(
        [parts(Sampler([real, phantom], recipe).batch(s))[0][:, 0, 2, 2, 2] for s in range(8)]
    )
    assert float((both > 0).float().mean()) == pytest.approx(0.25, abs=0.07)
    alone = parts(Sampler([phantom], recipe).batch(0))[0][:, 0, 2, 2, 2]
    assert (alone > 0).all()
    without = parts(Sampler([real], recipe).batch(0))[0][:, 0, 2, 2, 2]
    assert (without < 0).all()


def test_copies_have_their_share() -> None:
    recipe = volumetric(augment=PLAIN, patch=(4, 4, 4), batch=50, copy_share=0.25)
    zeros, labels = np.zeros((8, 8, 8), np.int16), np.ones((8, 8, 8), np.uint8)
    own = dataclasses.replace(made(zeros, labels, recipe), name="x", group="x")
    copies = [
        dataclasses.replace(made(zeros + 100, labels, recipe), name=f"x-{i}", group="x")
        for i in range(9)
    ]

    def share(shown: Sequence[Prepared], recipe: Recipe = recipe) -> float:
        sampler = Sampler(shown, recipe)
        seen = [parts(sampler.batch(step))[0][:, 0, 2, 2, 2] for step in range(8)]
        return float((torch.cat(seen) > 0).float().mean())

    assert share([own, *copies]) == pytest.approx(0.25, abs=0.07)
    assert share([own]) == 0
    # Without the CT that they were made of they are cases like any other.
    assert share(copies) == 1
    # Another patient is drawn as before: one case of eleven, or of two.
    other = dataclasses.replace(made(zeros - 100, labels, recipe), name="y", group="y")

    def of_other(shown: Sequence[Prepared]) -> float:
        seen = [parts(Sampler(shown, recipe).batch(s))[0][:, 0, 2, 2, 2] for s in range(8)]
        return float((torch.cat(seen) < -0.5).float().mean())

    assert of_other([own, *copies, *[other] * 10]) == pytest.approx(0.5, abs=0.08)
    every = dataclasses.replace(recipe, copy_share=None)
    assert share([own, *copies], every) == pytest.approx(0.9, abs=0.07)


def test_a_slab_is_all_that_is_seen() -> None:
    recipe = flat(augment=PLAIN, intensity=Intensity((0.0, 100.0)), batch=8)
    hu = np.arange(40, dtype=np.int16)[:, None, None] * np.ones((1, 20, 20), np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[10:13, 4, 4] = BY_NAME["kidney"].value
    # Another structure does not widen it.
    labels[30, 4, 4] = BY_NAME["pancreas"].value
    case = made(hu, labels, recipe)
    assert case.slices == (8, 14)
    seen = torch.cat([parts(Sampler([case], recipe).batch(s))[0][:, 0, 8, 8] for s in range(15)])
    assert set(torch.round(seen * 100).int().tolist()) == set(range(8, 15))


def test_lesions_without_a_channel_become_their_organ() -> None:
    recipe = flat(outputs=("pancreas",), augment=PLAIN)
    labels = np.zeros((8, 20, 20), np.uint8)
    labels[2:6, 2:9, 2:9], labels[3:5, 3:5, 3:5] = 1, 2
    case = made(np.zeros(labels.shape, np.int16), labels, recipe, ("pancreas", "pancreas_tumor"))
    assert set(np.unique(case.labels)) == {0, 1}
    assert np.count_nonzero(case.labels) == np.count_nonzero(labels)


def test_a_lesion_alone_does_not_make_its_organ_known() -> None:
    recipe = flat(outputs=("pancreas",))
    labels = np.full((8, 20, 20), 2, np.uint8)
    with pytest.raises(DataError, match="none of which tiny-flat learns"):
        made(np.zeros(labels.shape, np.int16), labels, recipe, ("pancreas_tumor",))


def test_every_sample_carries_the_fold_of_its_case() -> None:
    recipe = volumetric(
        outputs=("pancreas", "kidney", "kidney_tumor"), augment=PLAIN, batch=30, patch=(4, 4, 4)
    )
    labels = np.ones((8, 8, 8), np.uint8)
    annotated: list[tuple[str, ...]] = [("pancreas",), ("kidney",), ("kidney", "kidney_tumor")]
    sampler = Sampler(
        [
            made(np.full((8, 8, 8), 50 * i, np.int16), labels, recipe, names)
            for i, names in enumerate(annotated)
        ],
        recipe,
    )
    images, _, folds = parts(sampler.batch(0))
    which = torch.round(((images[:, 0, 2, 2, 2] + 1) * 200 - 160) / 50).int().tolist()
    assert set(which) == {0, 1, 2}
    expected = [[0, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 3]]
    assert folds.tolist() == [expected[w] for w in which]


def test_lesions_taken_as_absent_are_known_and_may_be_planted() -> None:
    changes: dict[str, Any] = {
        "outputs": ("pancreas", "kidney", "kidney_tumor"),
        "lesion_free": ("kidney_tumor",),
    }
    recipe = volumetric(**changes)
    free = prepare(loaded(annotated=("kidney",)), recipe)
    assert (free.annotated, free.plantable) == (("kidney", "kidney_tumor"), ("kidney_tumor",))
    labelled = prepare(loaded(annotated=("kidney", "kidney_tumor")), recipe)
    assert labelled.plantable == ()
    without_organ = prepare(loaded(annotated=("pancreas",)), recipe)
    assert (without_organ.annotated, without_organ.plantable) == (("pancreas",), ())


def test_planted_lesions_reach_the_targets() -> None:
    recipe = volumetric(
        outputs=("pancreas", "kidney", "kidney_cyst"),
        lesion_free=("kidney_cyst",),
        plant=1.0,
        foreground=1.0,
        augment=PLAIN,
    )
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[4:28, 4:28, 4:28] = BY_NAME["kidney"].value
    hu = np.where(labels > 0, 180, -90).astype(np.int16)
    case = made(hu, labels, recipe, ("kidney",))
    seen = [parts(Sampler([case], recipe).batch(step)) for step in range(4)]
    cysts = [targets == 3 for _, targets, _ in seen]
    assert any(c.any() for c in cysts)
    assert set(np.unique(case.labels)) == {0, 3}, "the case itself is left alone"
    for (images, _, _), cyst in zip(seen, cysts, strict=True):
        if cyst.sum() > 20:
            assert images[:, 0][cyst].median() < (120 + 160) / 200 - 1


def test_scan_scaling_is_the_whole_scans_whatever_the_patch() -> None:
    """Serving scales by the scan's own extremes; a patch of fat alone must look the same there."""
    recipe = flat(augment=PLAIN, batch=20)
    labels = np.zeros((6, 40, 40), np.uint8)
    labels[2, 20, 20] = BY_NAME["kidney"].value
    hu = np.full(labels.shape, -100, np.int16)
    hu[5, 0, 0], hu[5, 0, 1] = -1000, 120
    images = parts(Sampler([made(hu, labels, recipe)], recipe).batch(0))[0]
    # Clipped, the scan runs from -150 to 120.
    assert torch.allclose(images, torch.tensor((-100 + 150) / (120 + 150)), atol=1e-5)


def test_a_case_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(DataError, match=r"annotates \('liver',\), none of which tiny learns"):
        prepare(loaded(annotated=("liver",)), volumetric())


def test_unknown_voxels_reach_the_loss_as_such() -> None:
    case = loaded()
    case.labels.array[:12] = 255
    recipe = volumetric(augment=Augment(), foreground=0.0)
    batch = Sampler([prepare(case, recipe)], recipe).batch(0)
    assert (batch.targets == UNKNOWN).any()
    assert ((batch.targets >= 0) & (batch.targets <= len(recipe.outputs))).any()


def test_a_loss_that_cannot_leave_voxels_out_refuses_unknown_ones() -> None:
    case = loaded()
    case.labels.array[0, 0, 0] = 255
    with pytest.raises(DataError, match="blocks-0 has unknown voxels, which the loss dice cannot"):
        prepare(case, flat())


def test_no_case_is_refused() -> None:
    with pytest.raises(DataError, match="no case to train on"):
        Sampler([], volumetric())


def test_channels_follow_the_outputs_order() -> None:
    table = channel_table(volumetric(outputs=("kidney", "pancreas")))
    assert table[BY_NAME["kidney"].value] == 1
    assert table[BY_NAME["pancreas"].value] == 2
    assert table[255] == UNKNOWN
    assert table[BY_NAME["kidney_cyst"].value] == 1, "learned as its organ"
    assert set(table.tolist()) == {0, 1, 2, UNKNOWN}


def test_preparing_resamples_to_the_recipes_grid() -> None:
    case = prepare(loaded(), volumetric(sampling=Sampling((2.0, 2.0, 2.0))))
    assert case.spacing == (2.0, 2.0, 2.0)
    assert case.hu.shape == case.labels.shape == (30, 35, 40)
    inner = case.hu[case.labels == BY_NAME["kidney"].value]
    assert np.median(inner) == pytest.approx(HU["kidney"], abs=10)
    for name, voxels in case.centres.items():
        assert (case.labels[tuple(voxels.T)] == BY_NAME[name].value).all()


TASKS = (("kidney", "kidney_tumor"), (None, "kidney_tumor"), ("liver", None))
WITH_TASKS: dict[str, Any] = {
    "outputs": ("kidney", "kidney_tumor", "liver"),
    "activation": "sigmoid",
    "loss": Loss("task_dice_bce"),
    "tasks": TASKS,
    "augment": PLAIN,
    "patch": (4, 4, 4),
}


def test_a_patch_trains_a_task_that_its_case_annotates() -> None:
    recipe = volumetric(**WITH_TASKS, batch=40)
    labels = np.ones((8, 8, 8), np.uint8) * BY_NAME["kidney"].value
    known: list[tuple[str, ...]] = [("kidney", "kidney_tumor"), ("liver", "kidney")]
    hu = (np.full((8, 8, 8), v, np.int16) for v in (0, 100))
    sampler = Sampler(
        [made(h, labels, recipe, names) for h, names in zip(hu, known, strict=True)], recipe
    )
    batch = sampler.batch(0)
    first = batch.images[:, 0, 2, 2, 2] < 0
    assert set(batch.tasks[first].tolist()) == {0, 1}
    assert set(batch.tasks[~first].tolist()) == {2}
    assert batch.folds.shape == (40, 1)


def test_a_case_without_a_task_is_named() -> None:
    recipe = volumetric(**WITH_TASKS)
    labels = np.ones((8, 8, 8), np.uint8)
    case = made(np.zeros((8, 8, 8), np.int16), labels, recipe, ("kidney",))
    with pytest.raises(DataError, match="which is no task of tiny"):
        Sampler([case], recipe)


def test_processes_share_a_batch_that_is_the_same_for_any_number_of_them() -> None:
    recipe = volumetric(batch=4)
    alone = Sampler(cases(recipe), recipe).batch(5)
    shares = [Sampler(cases(recipe), recipe, rank, 2).batch(5) for rank in (0, 1)]
    for index in range(4):
        share = shares[index % 2]
        assert torch.equal(alone.images[index], share.images[index // 2])
        assert torch.equal(alone.targets[index], share.targets[index // 2])
    with pytest.raises(DataError, match="batch of 4 cannot be shared by 3"):
        Sampler(cases(recipe), recipe, 0, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_drawing_ahead_gives_the_same_batches(threads: int) -> None:
    recipe = volumetric(batch=2)
    sampler = Sampler(cases(recipe), recipe)
    with drawn_ahead(sampler, 3, threads) as batches:
        for step in range(3, 9):
            assert torch.equal(next(batches).images, sampler.batch(step).images)


def test_a_fault_while_drawing_ahead_comes_to_the_trainer() -> None:
    recipe = volumetric()
    sampler = Sampler(cases(recipe), recipe)
    sampler.batch = lambda step: 1 // 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError), drawn_ahead(sampler, 0, 1) as batches:
        next(batches)


def test_patches_may_lie_anywhere_in_the_labels_box() -> None:
    recipe = volumetric(
        outputs=("kidney",), augment=PLAIN, foreground=1.0, foreground_box=2, patch=(1, 1, 1)
    )
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10, 10, 10] = labels[13, 12, 10] = BY_NAME["kidney"].value
    hu = np.arange(40**3, dtype=np.int64).reshape(40, 40, 40)
    case = dataclasses.replace(made(labels.astype(np.int16), labels, recipe), hu=hu)
    sampler = Sampler([case], recipe)
    seen = {tuple(sampler._centre(case, 0, np.random.default_rng(s)).tolist()) for s in range(400)}
    low, high = np.min(list(seen), axis=0), np.max(list(seen), axis=0)
    assert (low.tolist(), high.tolist()) == ([8, 8, 8], [15, 14, 12])


def test_what_is_not_annotated_can_be_taken_as_background() -> None:
    labels = np.ones((8, 8, 8), np.uint8)
    plain = volumetric(outputs=("pancreas", "kidney"), augment=PLAIN, patch=(4, 4, 4))
    pooled = dataclasses.replace(plain, loss=Loss("dice_ce", unlabelled="background"))
    for recipe, expected in ((plain, [0, 1, 0]), (pooled, [0, 1, 2])):
        case = made(np.zeros((8, 8, 8), np.int16), labels, recipe, ("pancreas",))
        assert Sampler([case], recipe).batch(0).folds[0].tolist() == expected
