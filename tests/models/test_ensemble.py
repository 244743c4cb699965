"""An ensemble answers with the mean probability, in torch and as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from imaging.errors import BadParameter
from models.architectures import build
from models.architectures.ensemble import Ensemble
from models.export import export
from models.onnxfile import read_manifest
from models.postprocess import decide
from tests.models.manifests import manifest

Activation = Literal["softmax", "sigmoid"]
# The answer is rounded to multiples of 2**-16.
ROUNDED = 1e-5
ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid")


class Fixed(nn.Module):
    """A network that gives the same logits (C, *space) for every input."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.register_buffer("logits", torch.as_tensor(logits, dtype=torch.float32)[None])

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.logits, Tensor)
        return self.logits + 0 * x.mean()


def answer(logits: list[Any], activation: Activation) -> Tensor:
    """The ensemble's logits (C, *space) of networks with these."""
    found: Tensor = Ensemble([Fixed(one) for one in logits], activation)(torch.zeros(1, 1))[0]
    return found


def test_the_logarithm_of_the_mean_softmax() -> None:
    # Probabilities (0.8, 0.2) and (0.4, 0.6), told by logits of any offset.
    found = answer([np.log([4.0, 1.0]) + 7, np.log([2.0, 3.0])], "softmax")
    assert found.exp().tolist() == pytest.approx([0.6, 0.4], abs=ROUNDED)


def test_the_logit_of_the_mean_sigmoid() -> None:
    # Probabilities 0.9, 0.6 and 0.3: mean 0.6, odds 1.5. A mean of logits would give 1.57.
    found = answer([[np.log(9)], [np.log(1.5)], [np.log(3 / 7)]], "sigmoid")
    assert found.tolist() == pytest.approx([np.log(1.5)], abs=ROUNDED)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equal_networks_are_one(activation: Activation) -> None:
    logits = np.random.default_rng(0).normal(0, 10, (3, 5))
    one, five = answer([logits], activation), answer([logits] * 5, activation)
    assert torch.allclose(one, five, atol=ROUNDED)
    expected = torch.as_tensor(logits, dtype=torch.float32)
    if activation == "softmax":
        expected = expected.log_softmax(0)
    assert torch.allclose(one, expected, atol=ROUNDED)


def test_sure_sigmoids_stay_finite_and_the_surer_one_decides() -> None:
    # At 1000 against -500 the first is surer by far more than float32 can say of probabilities.
    rows = [[1000.0, -1000.0, 1e6, 500.0, 0.0], [-500.0, 500.0, 1e6, -500.0, 0.0]]
    found = answer(rows, "sigmoid")
    # Odds of the mean of 1 - e^-1000 and e^-500 are just over 1; of two sure ones, surer still.
    assert found.isfinite().all()
    assert found.tolist() == pytest.approx([0.0, 0.0, 1e6, 0.0, 0.0])
    low = answer([[-1000.0], [-500.0]], "sigmoid")
    assert low.tolist() == pytest.approx([-500 - np.log(2)])


def test_sure_softmaxes_stay_finite_and_keep_their_decision() -> None:
    found = answer([[1e6, 0.0, -1e6], [-1e6, 0.0, -1e6], [-1e6, 0.0, 1e6]], "softmax")
    assert found.isfinite().all()
    # A third each but for e^-1000000.
    assert found.tolist() == pytest.approx([np.log(1 / 3)] * 3, abs=ROUNDED)
    two = answer([[1000.0, 0.0], [999.0, 0.0]], "softmax")
    assert two[0] > two[1]


logits = st.lists(
    arrays(np.float32, (3, 8), elements=st.floats(-60, 60, width=32)), min_size=1, max_size=4
)


@given(logits, st.sampled_from(ACTIVATIONS))
def test_decisions_are_those_of_the_mean_probability(
    rows: list[Any], activation: Activation
) -> None:
    found = answer(rows, activation)
    exact = torch.as_tensor(np.stack(rows), dtype=torch.float64)
    mean = (exact.softmax(1) if activation == "softmax" else exact.sigmoid()).mean(0)
    if activation == "sigmoid":
        sure = (mean - 0.5).abs() > ROUNDED
        assert torch.equal((found > 0)[sure], (mean > 0.5)[sure])
        return
    chosen = mean.gather(0, found.argmax(0, keepdim=True))[0]
    assert (mean.max(0).values - chosen < 2 * ROUNDED).all()


def test_nothing_and_an_unknown_activation_are_refused() -> None:
    with pytest.raises(BadParameter, match="at least one network, not 0"):
        Ensemble([], "softmax")
    with pytest.raises(BadParameter, match="'tanh'"):
        Ensemble([nn.Identity()], "tanh")  # type: ignore[arg-type]


VOLUMES: dict[str, Any] = {"patch": (16, 16, 16), "divisor": (8, 8, 8)}
SLICES: dict[str, Any] = {
    "dims": 2,
    "patch": (1, 16, 16),
    "divisor": (1, 4, 4),
    "outputs": ("kidney",),
    "activation": "sigmoid",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "options", "fields"),
    [("dynunet", {"filters": [4, 8, 8]}, VOLUMES), ("monet", {"filters": 4}, SLICES)],
)
def test_one_onnx_file_decides_as_the_mean_does(
    architecture: str, options: dict[str, Any], fields: dict[str, Any], tmp_path: Path
) -> None:
    wanted, path = manifest(**fields), tmp_path / "model.onnx"
    torch.manual_seed(0)
    networks = [build(architecture, wanted.channels, **options).eval() for _ in range(2)]
    softmax = wanted.activation == "softmax"
    embedded, parity = export(Ensemble(networks, "softmax" if softmax else "sigmoid"), wanted, path)
    assert parity.max_difference < 1e-4
    assert read_manifest(path) == embedded
    value = np.random.default_rng(1).standard_normal((1, 1, *[16] * wanted.dims), np.float32)
    with torch.no_grad():
        each = torch.stack([network(torch.from_numpy(value)) for network in networks])
    mean = (each.softmax(2) if softmax else each.sigmoid() - 0.5).mean(0).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": value})[0]
    # Scores (C, Z, Y, X) of either: a slice is a volume of one.
    space = (wanted.channels, -1, 16, 16)
    labels = decide(found.reshape(space), wanted)
    assert np.mean(labels == decide(mean.reshape(space), wanted)) > 0.999
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sure_and_contradicting_networks_agree_with_their_onnx_file(
    activation: Activation, tmp_path: Path
) -> None:
    softmax = activation == "softmax"
    wanted = manifest(
        dims=2,
        patch=(1, 16, 16),
        outputs=("kidney",) if softmax else ("pancreas", "kidney"),
        activation=activation,
    )

    def scaled(factor: float) -> nn.Module:
        layer = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            layer.weight[:, 0, 0, 0] = torch.tensor([factor, -factor])
            layer.bias.zero_()  # type: ignore[union-attr]
        return layer

    path = tmp_path / "model.onnx"
    _, parity = export(Ensemble([scaled(1000.0), scaled(-400.0)], activation), wanted, path)
    assert parity.agreement == 1
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    value = np.linspace(-3, 3, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    found = session.run(None, {"image": value})[0]
    # Each says the opposite of the other, and the mean is a tie in every voxel but near 0.
    expected = np.log(0.5) if softmax else 0.0
    assert np.abs(found - expected)[..., np.abs(value[0, 0]) > 0.1].max() < 1e-4
