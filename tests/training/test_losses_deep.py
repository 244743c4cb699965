"""Deep supervision by hand."""

from __future__ import annotations

import pytest
import torch

from imaging.errors import BadParameter
from training.losses import deep_supervision


def first_voxel(output: torch.Tensor) -> torch.Tensor:
    assert output.shape == (2, 3, 4, 5)
    return output[0, 0, 0, 0]


def outputs(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, :, None, None, None].expand(2, -1, 3, 4, 5)


@pytest.mark.parametrize(("level", "weight"), [(0, 0.5333), (1, 0.2667), (2, 0.1333), (3, 0.0667)])
def test_each_level_weighs_half_of_the_one_before(level: int, weight: float) -> None:
    values = [0.0] * 4
    values[level] = 1.0
    found = deep_supervision(first_voxel, outputs(*values)).item()
    assert found == pytest.approx(weight, abs=5e-5)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6])
def test_equal_outputs_cost_what_one_does(levels: int) -> None:
    found = deep_supervision(first_voxel, outputs(*[3.5] * levels)).item()
    assert found == pytest.approx(3.5, rel=1e-6)


def test_own_weights_are_taken_as_they_are() -> None:
    found = deep_supervision(first_voxel, outputs(1.0, 10.0), weights=(2.0, 0.5))
    assert found.item() == 7


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.5, 0.25), ()])
def test_a_weight_too_many_or_too_few_is_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(BadParameter, match="for 2 outputs"):
        deep_supervision(first_voxel, outputs(1.0, 2.0), weights)
