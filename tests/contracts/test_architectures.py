"""One tester for every architecture: shape, gradients, parameter count, ONNX parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imaging.errors import BadParameter, IsletError
from models.architectures import ARCHITECTURES, Architecture, build
from models.export import export
from models.manifest import Intensity, Manifest, Provenance, Sampling

# Trainable parameters with default options and 8 channels, and options for quick exports.
COUNTS = {"monet": 401_666 + 7 * 18, "dynunet": 1_401_272}
SMALL: dict[str, dict[str, Any]] = {"monet": {"filters": 4}, "dynunet": {"filters": [4, 8, 8]}}


def check_architecture(entry: Architecture, options: dict[str, Any], path: Path) -> None:
    """Everything the registry promises of an entry; AssertionError or IsletError otherwise."""
    network = entry.build(3, **options)
    smallest = 2 * entry.divisor
    for size in ([smallest] * entry.dims, [smallest + i * entry.divisor for i in range(3)]):
        size = size[: entry.dims]
        image = torch.randn(2, 1, *size)
        logits = network(image)
        assert logits.shape == (2, 3, *size)
        assert logits.dtype == torch.float32
        assert (logits < 0).any(), "logits, not probabilities"
        assert (logits > 1).any() or (logits.sum(1) - 1).abs().max() > 0.1
    network.zero_grad()
    (network(image) * torch.randn(2, 3, *size)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, f"{name} gets no gradient"
    _, parity = export(network, _manifest(entry), path)
    assert path.is_file()
    assert parity.max_difference < 1e-4


def _manifest(entry: Architecture) -> Manifest:
    flat = entry.dims == 2
    return Manifest(
        name="contract",
        architecture="contract",
        sampling=Sampling((None, None, None)),
        intensity=Intensity((-100.0, 100.0)),
        dims=entry.dims,
        patch=(1 if flat else 4 * entry.divisor, 4 * entry.divisor, 4 * entry.divisor),
        divisor=(1 if flat else entry.divisor, entry.divisor, entry.divisor),
        outputs=("pancreas", "kidney"),
        provenance=Provenance("contract"),
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contract(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_architecture(ARCHITECTURES[name], SMALL[name], tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameter_count(name: str) -> None:
    network = build(name, 8)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_seed_gives_the_same_weights(name: str) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build(name, 2, **SMALL[name]).state_dict())
    assert all(torch.equal(networks[0][k], networks[1][k]) for k in networks[0])


class _Broken(nn.Module):
    """Breaks one promise of the registry, whichever is asked."""

    def __init__(self, channels: int, fault: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.fault = fault
        if fault == "dead parameter":
            self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        if self.fault == "half size":
            return out[..., ::2, ::2]
        if self.fault == "probabilities":
            return out.softmax(1)
        if self.fault == "other when exported" and torch.compiler.is_exporting():
            return out + 1
        return out


@pytest.mark.parametrize(
    "fault", ["half size", "dead parameter", "probabilities", "other when exported"]
)
def test_the_tester_catches(fault: str, tmp_path: Path) -> None:
    broken = Architecture(_Broken, 2, 4, "none")
    with pytest.raises((AssertionError, IsletError)):
        check_architecture(broken, {"fault": fault}, tmp_path / "model.onnx")


def test_the_tester_passes_what_is_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Architecture(_Broken, 2, 4, "none")
    check_architecture(whole, {"fault": "none"}, tmp_path / "model.onnx")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadParameter, match=r"'resnet'.*monet, dynunet"):
        build("resnet", 2)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_dynunet_keeps_to_the_registrys_divisor(levels: int) -> None:
    with pytest.raises(BadParameter, match="3 or 4 levels"):
        build("dynunet", 2, filters=[4] * levels)
