"""The training loop: it learns, stops and goes on exactly where it was."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imaging.errors import BadParameter, DataError, DeviceUnavailable
from tests.training.tiny import cases, flat, volumetric
from training import checkpoint
from training.averaging import RunningMean
from training.fit import Fitted, fit
from training.recipe import Optimizer, Recipe
from training.trainer import Trainer, initial_network, pick_device

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "quiet": True}
# The first three losses of ``volumetric()`` trained on two cases, as first measured.
GOLDEN = [3.963926, 3.441123, 3.203886]


class Killed(Exception):
    """What the hook raises where a training is to die."""


def run(recipe: Recipe, out: Path, validate: bool = False, **options: Any) -> Fitted:
    validation = cases(recipe, 1, first=9) if validate else ()
    return fit(recipe, cases(recipe), out, validation=validation, **PLAIN, **options)


def kill_after(epochs: int) -> Any:
    def hook(entry: dict[str, Any]) -> None:
        if entry["epoch"] == epochs:
            raise Killed

    return hook


def same(one: Fitted, other: Fitted) -> bool:
    weights, others = one.network.state_dict(), other.network.state_dict()
    told = [[{**e, "seconds": 0.0} for e in found.history] for found in (one, other)]
    return told[0] == told[1] and all(torch.equal(weights[k], others[k]) for k in weights)


def test_the_first_losses_are_the_stored_ones(tmp_path: Path) -> None:
    found = run(volumetric(steps=3, steps_per_epoch=1), tmp_path)
    assert [e["loss"] for e in found.history] == pytest.approx(GOLDEN, abs=1e-4)


def test_what_a_killed_training_left_half_written_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".abc.part"
    left.write_bytes(b"half a checkpoint")
    run(volumetric(steps=2), tmp_path)
    assert not left.exists()


def test_batch_norms_are_frozen_at_the_end(tmp_path: Path) -> None:
    """Statistics follow the patches for half of the steps, and stay after that."""
    recipe = volumetric(
        architecture="subpixel_unet",
        options={"filters": [4, 8, 8], "norm": "batch"},
        steps=6,
        steps_per_epoch=1,
        frozen_norms=0.5,
    )
    seen: list[torch.Tensor] = []

    def keep(entry: dict[str, Any]) -> None:
        del entry
        state = checkpoint.load(tmp_path / checkpoint.LAST).network
        means = [value for name, value in state.items() if name.endswith("running_mean")]
        seen.append(torch.cat(means).clone())

    run(recipe, tmp_path, hook=keep)
    moves = [bool((a != b).any()) for a, b in itertools.pairwise(seen)]
    assert moves == [True, True, False, False, False]


def test_the_last_steps_weights_are_averaged(tmp_path: Path) -> None:
    """At a constant rate the same steps are made with and without a mean over them."""
    recipe = volumetric(
        steps=5, steps_per_epoch=1, optimizer=Optimizer("adamw", 1e-2, "constant", averaging=1.0)
    )
    seen: list[dict[str, torch.Tensor]] = []

    def keep(entry: dict[str, Any]) -> None:
        del entry
        seen.append(checkpoint.load(tmp_path / "plain" / checkpoint.LAST).network)

    run(recipe, tmp_path / "plain", hook=keep)
    found = run(dataclasses.replace(recipe, averaged=0.6), tmp_path / "mean").network.state_dict()
    for name, value in found.items():
        last = torch.stack([state[name].double() for state in seen[2:]])
        assert torch.allclose(value.double(), last.mean(0), atol=1e-6), name
    moved = [(seen[2][name] - value).abs().max() for name, value in found.items()]
    assert max(moved) > 1e-3
    kept = checkpoint.load(tmp_path / "mean" / checkpoint.LAST)
    assert all(torch.equal(kept.network[name], value) for name, value in found.items())


def test_a_mean_that_was_saved_goes_on_where_the_network_is() -> None:
    """Checkpoints come back on the CPU; the network may be on a GPU, here torch's meta device."""
    saved = RunningMean()
    saved.add(torch.nn.Linear(2, 1))
    resumed = RunningMean()
    resumed.load_state_dict(saved.state_dict())
    resumed.add(torch.nn.Linear(2, 1, device="meta"))
    assert {value.device.type for value in resumed.state_dict()["mean"].values()} == {"meta"}


def test_it_learns(tmp_path: Path) -> None:
    found = run(volumetric(steps=90, steps_per_epoch=30), tmp_path)
    losses = [e["loss"] for e in found.history]
    assert losses[-1] < 0.8 * losses[0]
    assert found.steps == 90
    assert not found.network.training


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(
    "recipe",
    [volumetric(steps=6), flat(steps=10), volumetric(steps=6, averaged=0.8)],
    ids=["cosine", "plateau", "averaged"],
)
def test_killed_and_resumed_is_uninterrupted(
    recipe: Recipe, validate: bool, tmp_path: Path
) -> None:
    whole = run(recipe, tmp_path / "whole", validate)
    with pytest.raises(Killed):
        run(recipe, tmp_path / "parts", validate, hook=kill_after(1))
    # Whatever happened to the generator in between.
    torch.manual_seed(12345)
    with pytest.raises(Killed):
        run(recipe, tmp_path / "parts", validate, resume=True, hook=kill_after(2))
    resumed = run(recipe, tmp_path / "parts", validate, resume=True)
    assert same(whole, resumed)
    names = ("network", "optimizer", "schedule", "average")
    ends = [checkpoint.load(tmp_path / part / checkpoint.LAST) for part in ("whole", "parts")]
    for name in names:
        assert str(getattr(ends[0], name)) == str(getattr(ends[1], name)), name


def test_the_plateau_schedule_moves_and_survives_a_resume(tmp_path: Path) -> None:
    recipe = flat(steps=16, optimizer=Optimizer("nadam", 0.0, "plateau", weight_decay=0.0))
    # With a learning rate of 0 nothing gets better; what moves is the schedule's own state.
    whole = run(recipe, tmp_path / "whole", validate=True)
    with pytest.raises(Killed):
        run(recipe, tmp_path / "parts", validate=True, hook=kill_after(2))
    run(recipe, tmp_path / "parts", validate=True, resume=True)
    states = [
        checkpoint.load(tmp_path / part / checkpoint.LAST).schedule for part in ("whole", "parts")
    ]
    assert states[0] == states[1]
    # The first of 8 epochs is the best; every second one after it makes the rate a tenth.
    assert len(whole.history) == 8
    assert states[0]["factor"] == pytest.approx(1e-3)


def test_the_learning_rate_falls_to_a_tenth_after_two_epochs_of_stagnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([1.0, 0.5, 0.6, 0.7, 0.7, 0.7])
    monkeypatch.setattr(Trainer, "_validate", lambda _: next(given))
    found = run(flat(steps=12), tmp_path, validate=True)
    rates = [e["lr"] for e in found.history]
    assert rates == pytest.approx([5e-4, 5e-4, 5e-4, 5e-4, 5e-5, 5e-5])


def test_a_finished_training_resumes_to_itself(tmp_path: Path) -> None:
    recipe = volumetric()
    assert same(run(recipe, tmp_path), run(recipe, tmp_path, resume=True))


@pytest.mark.parametrize("change", [{"seed": 4}, {"steps": 6}, {"optimizer": Optimizer(lr=1e-4)}])
def test_another_recipe_does_not_resume(change: dict[str, Any], tmp_path: Path) -> None:
    recipe = volumetric(steps=2)
    run(recipe, tmp_path)
    with pytest.raises(DataError, match="other settings"):
        run(dataclasses.replace(recipe, **change), tmp_path, resume=True)


def test_a_loss_that_is_no_number_stops_and_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    recipe = volumetric(
        steps=5, steps_per_epoch=1, optimizer=Optimizer("sgd", 1e30, "constant", clip=0.0)
    )
    with pytest.raises(DataError, match=r"in step 1; lower the learning rate"):
        run(recipe, tmp_path)
    saved = checkpoint.load(tmp_path / checkpoint.LAST)
    assert saved.step == 1
    assert all(torch.isfinite(v).all() for v in saved.network.values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path: Path) -> None:
    recipe = volumetric(steps=2, steps_per_epoch=1)
    broken = Trainer(recipe, cases(recipe), out=tmp_path, device="cpu", precision="fp32")
    weight = next(broken.network.parameters())
    before = weight.detach().clone()
    weight.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(DataError, match="gradient nan"):
        broken._train_step(broken.sampler.batch(0))
    assert torch.equal(weight, before)


def test_without_a_better_validation_loss_it_stops_early(tmp_path: Path) -> None:
    still = Optimizer("adamw", 0.0, "constant", weight_decay=0.0)
    found = run(volumetric(steps=20, patience=2, optimizer=still), tmp_path, validate=True)
    assert [e["epoch"] for e in found.history] == [1, 2, 3]
    assert found.steps == 6
    again = run(
        volumetric(steps=20, patience=2, optimizer=still), tmp_path, validate=True, resume=True
    )
    assert same(found, again)
    # Without validation nothing is stopped.
    found = run(volumetric(steps=8, patience=1, optimizer=still), tmp_path / "other")
    assert found.steps == 8


@pytest.fixture
def _second_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([1.0, 0.5, 0.9])
    monkeypatch.setattr(Trainer, "_validate", lambda _: next(given))


@pytest.mark.usefixtures("_second_is_best")
def test_the_weights_of_the_best_validation_are_the_result(tmp_path: Path) -> None:
    found = run(volumetric(steps=6), tmp_path, validate=True)
    best = checkpoint.load(tmp_path / checkpoint.BEST)
    last = checkpoint.load(tmp_path / checkpoint.LAST)
    assert (best.step, last.step) == (4, 6)
    weights = found.network.state_dict()
    assert all(torch.equal(weights[k], best.network[k]) for k in weights)
    assert not all(torch.equal(weights[k], last.network[k]) for k in weights)


def test_an_earlier_training_is_never_overwritten(tmp_path: Path) -> None:
    run(volumetric(steps=2), tmp_path, validate=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(DataError, match="--resume"):
        run(volumetric(steps=2), tmp_path)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_validation_is_plain_and_beyond_every_training_step(tmp_path: Path) -> None:
    recipe = volumetric(steps=2)
    made = Trainer(
        recipe, cases(recipe), validation=cases(recipe, 1), device="cpu", precision="fp32"
    )
    before = made._validate()
    torch.manual_seed(77)
    made.objective.train()
    assert made._validate() == before
    assert not made.network.training


def test_the_history_is_one_line_of_json_an_epoch(tmp_path: Path) -> None:
    found = run(volumetric(steps=5), tmp_path, validate=True)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == found.history
    assert [e["step"] for e in lines] == [2, 4, 5]
    assert set(lines[0]) == {"epoch", "step", "loss", "lr", "validation_loss", "seconds"}


def test_a_training_starts_from_the_weights_it_is_given(tmp_path: Path) -> None:
    still = volumetric(steps=2, optimizer=Optimizer("adamw", 0.0, "constant", weight_decay=0.0))
    given = initial_network(dataclasses.replace(still, seed=9)).state_dict()
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "quiet": True}
    found = fit(still, cases(still), tmp_path, initial=given, **options)
    assert all(torch.equal(found.network.state_dict()[k], given[k]) for k in given)


def test_bf16_trains_too(tmp_path: Path) -> None:
    recipe = volumetric(steps=2)
    found = fit(recipe, cases(recipe), tmp_path, device="cpu", precision="bf16", quiet=True)
    assert found.history[0]["loss"] < 10
    assert {p.dtype for p in found.network.parameters()} == {torch.float32}


def test_the_seed_gives_the_first_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = initial_network(volumetric()).state_dict()
    assert torch.equal(torch.rand(3), expected)
    other = initial_network(volumetric()).state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)
    third = initial_network(volumetric(seed=4)).state_dict()
    assert not all(torch.equal(one[k], third[k]) for k in one)


def test_devices_and_precisions_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(DeviceUnavailable, match="--device cpu"):
        pick_device("cuda")
    with pytest.raises(BadParameter, match="'tpu'"):
        pick_device("tpu")
    with pytest.raises(BadParameter, match="'fp16'"):
        fit(volumetric(), cases(volumetric()), tmp_path, precision="fp16")
