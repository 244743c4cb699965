"""bfloat16 where it is native and right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imaging.errors import BadParameter
from tests.training.tiny import cases, flat, volumetric
from training.objective import Objective
from training.precision import use_bf16
from training.recipe import Recipe
from training.samples import Sampler
from training.trainer import initial_network

CPU = torch.device("cpu")


def asked(recipe: Recipe, precision: str, device: torch.device = CPU) -> bool:
    objective = Objective(initial_network(recipe), recipe)
    return use_bf16(precision, device, objective, Sampler(cases(recipe), recipe).batch(0))


@pytest.fixture
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize(
    ("change", "right"),
    # Three levels: a quarter of the patch's depth at the bottom.
    [
        ({"patch": (16, 16, 16)}, True),
        ({"patch": (8, 16, 16)}, False),
        ({"patch": (12, 8, 8)}, True),
    ],
)
def test_a_depth_of_two_voxels_is_trained_in_float32(change: dict[str, Any], right: bool) -> None:
    recipe = volumetric(**change)
    assert asked(recipe, "auto") == right
    assert not asked(recipe, "fp32")
    if right:
        assert asked(recipe, "bf16")
    else:
        with pytest.raises(BadParameter, match="sees two slices"):
            asked(recipe, "bf16")


@pytest.mark.usefixtures("_native")
def test_slices_have_no_depth() -> None:
    assert asked(flat(patch=(1, 8, 8)), "auto")


def test_without_native_bf16_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not asked(flat(), "auto")
    assert asked(flat(), "bf16")


def test_looking_changes_nothing() -> None:
    recipe = flat()
    objective = Objective(initial_network(recipe), recipe)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    use_bf16("bf16", CPU, objective, Sampler(cases(recipe), recipe).batch(0))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(before[k], v) for k, v in objective.state_dict().items())


def test_another_precision_is_refused() -> None:
    with pytest.raises(BadParameter, match="'fp16'"):
        asked(volumetric(), "fp16")
