"""One tester for every architecture: shape, gradients, parameter count, ONNX parity."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from imaging.errors import BadParameter, IsletError
from models.architectures import ARCHITECTURES, Architecture, build
from models.architectures.keras import keras_count
from models.export import Exportable, Parity, export
from models.labels import BY_NAME
from models.manifest import Intensity, Manifest, Provenance, Sampling

# Parameters and running statistics of every default network, as its paper or library has them.
COUNTS = {
    "monet": (401_666, 1_890),
    "unet64": (31_042_369, 11_776),
    "unet16": (1_943_761, 2_944),
    "attention_unet": (31_741_573, 11_776),
    "dynunet": (1_401_170, 0),
    "subpixel_unet": (1_362_448, 0),
    "lesion_cascade": (2_725_160, 1_280),
    "c2fnas": (15_313_856, 0),
    "segviz_unet": (4_808_917, 2_436),
    "dodnet": (17_329_528, 0),
    "kits21_resunet": (14_464_228, 0),
}
# Options for quick exports.
SMALL: dict[str, dict[str, Any]] = {
    "monet": {"filters": 4},
    "unet64": {"filters": 2},
    "unet16": {"filters": 2},
    "attention_unet": {"filters": 2},
    "dynunet": {"filters": [4, 8, 8]},
    "subpixel_unet": {"filters": [4, 8, 8]},
    "lesion_cascade": {"organs": {"filters": [4, 8, 8]}, "lesions": {"filters": [4, 8, 8]}},
    "c2fnas": {"filters": 2},
    "segviz_unet": {"filters": (4, 4, 4, 4, 4)},
    "dodnet": {"widths": (4, 4, 8, 8, 8), "groups": 2, "repeats": (1, 1, 1, 1, 1)},
    "kits21_resunet": {
        "stem": 8,
        "planes": (4, 8, 8, 8),
        "repeats": (1, 1, 1, 1),
        "decoder": (16, 8, 8, 8),
        "rates": (1, 2),
    },
}
# Their exports take as long small as large, and are checked at their published size alone.
MANY_NODES = {"c2fnas", "dodnet", "kits21_resunet"}
# Parts that only training has, which no file may hold.
FOR_TRAINING: dict[str, dict[str, Any]] = {
    "dynunet": {"deep": 2},
    "c2fnas": {"vae": True, "patch": (32, 32, 32)},
    "kits21_resunet": {"deep": 3},
}


def check_architecture(entry: Architecture, options: dict[str, Any], path: Path) -> None:
    """Everything the registry promises of an entry; AssertionError or IsletError otherwise."""
    check_network(entry, options)
    check_export(entry, entry.build(3, **options), 3, path)


def check_network(entry: Architecture, options: dict[str, Any]) -> None:
    """What the registry promises of an entry's network; AssertionError otherwise."""
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


def check_export(entry: Architecture, network: nn.Module, channels: int, path: Path) -> Parity:
    """What it promises of an export; AssertionError or IsletError otherwise."""
    network.train()(torch.randn(2, 1, *[2 * entry.divisor] * entry.dims))
    _, parity = export(network, _manifest(entry, channels), path)
    assert path.is_file()
    assert parity.max_difference < 1e-4
    assert parity.agreement >= 0.9999
    return parity


def _manifest(entry: Architecture, channels: int) -> Manifest:
    flat = entry.dims == 2
    softmax = channels > 1
    return Manifest(
        name="contract",
        architecture="contract",
        sampling=Sampling((None, None, None)),
        intensity=Intensity((-100.0, 100.0)),
        dims=entry.dims,
        patch=(1 if flat else 4 * entry.divisor, 4 * entry.divisor, 4 * entry.divisor),
        divisor=(1 if flat else entry.divisor, entry.divisor, entry.divisor),
        activation="softmax" if softmax else "sigmoid",
        outputs=tuple(BY_NAME)[: channels - softmax],
        provenance=Provenance("contract"),
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contract(name: str) -> None:
    torch.manual_seed(0)
    check_network(ARCHITECTURES[name], SMALL[name])


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MANY_NODES])
def test_a_small_one_exports(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    entry = ARCHITECTURES[name]
    check_export(entry, entry.build(3, **SMALL[name]), 3, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameter_count(name: str) -> None:
    assert keras_count(build(name)) == COUNTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_published_size_exports_without_what_only_training_needs(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    torch.manual_seed(0)
    entry = ARCHITECTURES[name]
    network = build(name, **FOR_TRAINING.get(name, {}))
    path = tmp_path / "model.onnx"
    record_property("parity", str(check_export(entry, network, entry.channels, path)))
    weights = sum(math.prod(one.dims) for one in onnx.load(path).graph.initializer)
    assert weights <= sum(COUNTS[name]) + 100, "a few constants at most besides the weights"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cuda_computes_what_the_cpu_does(name: str) -> None:
    torch.manual_seed(0)
    entry = ARCHITECTURES[name]
    network = entry.build(3, **SMALL[name]).eval()
    image = torch.randn(2, 1, *[(2 + i) * entry.divisor for i in range(entry.dims)])
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        expected = network(image)
        found = network.cuda()(image.cuda()).cpu()
    difference = (found - expected).abs().max() / max(1.0, float(expected.abs().max()))
    assert difference < 1e-4
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.9999


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_seed_gives_the_same_weights(name: str) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build(name, 3, **SMALL[name]).state_dict())
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
        if self.fault == "other when exported" and torch.onnx.is_in_onnx_export():
            return out + 1
        return out


@pytest.mark.parametrize(
    "fault", ["half size", "dead parameter", "probabilities", "other when exported"]
)
def test_the_tester_catches(fault: str, tmp_path: Path) -> None:
    broken = Architecture(_Broken, 2, 4, 1, "none")
    with pytest.raises((AssertionError, IsletError)):
        check_architecture(broken, {"fault": fault}, tmp_path / "model.onnx")


def test_the_tester_passes_what_is_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Architecture(_Broken, 2, 4, 1, "none")
    check_architecture(whole, {"fault": "none"}, tmp_path / "model.onnx")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadParameter, match=r"'resnet'.*monet, unet64"):
        build("resnet", 2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_channels_is_the_papers_number(name: str) -> None:
    entry = ARCHITECTURES[name]
    image = torch.zeros(1, 1, *[2 * entry.divisor] * entry.dims)
    for asked in (None, 3):
        network = build(name, asked, **SMALL[name]).eval()
        assert network(image).shape[1] == (asked or entry.channels)


def test_no_channel_at_all_is_refused() -> None:
    with pytest.raises(BadParameter, match="1 output channel, not 0"):
        build("monet", 0)


@pytest.mark.parametrize(("dims", "divisor", "channels"), [(4, 8, 1), (3, 0, 1), (2, 8, 0)])
def test_an_impossible_entry_is_refused(dims: int, divisor: int, channels: int) -> None:
    with pytest.raises(BadParameter, match=f"not {dims}, {divisor} and {channels}"):
        Architecture(_Broken, dims, divisor, channels, "none")


def test_dynunets_deep_heads_come_in_training_alone() -> None:
    torch.manual_seed(0)
    network = build("dynunet", 3, filters=[4, 8, 8, 8], deep=2)
    image = torch.randn(2, 1, 16, 24, 16)
    trained = network(image)
    assert trained.shape == (2, 3, 3, 16, 24, 16)
    # Repeated voxels: of a head on half the size two neighbours are equal, of one at full not.
    for head, equal in ((0, False), (1, True), (2, True)):
        assert torch.equal(trained[:, head, ..., ::2], trained[:, head, ..., 1::2]) is equal
    network.eval()
    assert torch.equal(network(image), trained[:, 0])
    assert isinstance(network, Exportable)
    for other in (network.exportable().eval(), copy.deepcopy(network)):
        assert torch.equal(other(image), trained[:, 0])


@pytest.mark.parametrize(("levels", "deep"), [(3, 2), (4, 3), (4, -1)])
def test_dynunet_has_no_more_deep_heads_than_levels_between(levels: int, deep: int) -> None:
    with pytest.raises(BadParameter, match=f"0 to {levels - 2} deep heads, not {deep}"):
        build("dynunet", 2, filters=[4] * levels, deep=deep)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_dynunet_keeps_to_the_registrys_divisor(levels: int) -> None:
    with pytest.raises(BadParameter, match="3 or 4 levels"):
        build("dynunet", 2, filters=[4] * levels)
