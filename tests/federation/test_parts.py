"""Which tensors travel, on the real networks, and which of their slices belong to one channel."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.networks.nets import UNet
from numpy.typing import NDArray
from torch import nn

from federation.parts import HEAD, NORMS, Rows, moved, parts_of, put, rows_of, shared_weights, under
from imaging.errors import BadParameter
from models.architectures import ARCHITECTURES
from training.recipes import RECIPES, recipe
from training.trainer import initial_network

# A recipe of each architecture.
OF = {recipe(name, "tiny").architecture: recipe(name, "tiny") for name in RECIPES}
# The plain U-Net has no recipe of its own any more.
OF["dynunet"] = dataclasses.replace(
    recipe("starter-organs", "tiny"), architecture="dynunet", options={"filters": [8, 16, 32]}
)


@functools.cache
def network_of(architecture: str) -> nn.Module:
    return initial_network(OF[architecture])


def norm_layers(network: nn.Module) -> dict[str, nn.Module]:
    """By every name that a layer has, those that networks give it twice among them."""
    return {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if "Norm" in type(module).__name__ and type(module).__module__.startswith("torch.nn.")
    }


def put_ones(network: nn.Module, names: Iterable[str]) -> None:
    """Write a 1 into every value of named tensors."""
    state = network.state_dict()
    put(network, {n: np.ones(state[n].shape, np.float32) for n in names})


def test_every_architecture_is_tried() -> None:
    assert OF.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_travels_once(architecture: str) -> None:
    network = network_of(architecture)
    parts, state = parts_of(network, architecture), network.state_dict()
    places = [state[name].data_ptr() for name in parts.shared]
    assert len(set(places)) == len(places)
    weights = {p.data_ptr() for p in network.parameters()}
    assert weights <= set(places)
    assert parts.norms == ()
    # What is no weight is a running statistic, and no weight is taken for one.
    assert all(name.endswith(("running_mean", "running_var")) for name in parts.statistics)
    assert {state[n].data_ptr() for n in set(parts.shared) - parts.statistics} == weights
    assert all(state[name].is_floating_point() for name in parts.shared)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norms_stay_at_their_site(architecture: str) -> None:
    network = initial_network(OF[architecture])
    parts = parts_of(network, architecture, [NORMS])
    assert not set(parts.shared) & set(parts.norms)
    assert not any("num_batches_tracked" in name for name in (*parts.shared, *parts.norms))
    before = {n: t.clone() for n, t in network.state_dict().items()}
    layers = norm_layers(network)
    ours = {t.data_ptr() for m in layers.values() for t in m.state_dict().values()}
    put_ones(network, parts.shared)
    for name, tensor in network.state_dict().items():
        kept = tensor.data_ptr() in ours
        assert torch.equal(tensor, before[name] if kept else torch.ones_like(tensor)), name
    # And with those that stay, all tensors but counters are named.
    put_ones(network, parts.norms)
    assert all(bool((t == 1).all()) for t in network.state_dict().values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("architecture", "norm", "other"),
    [
        ("segviz_unet", "model.0.conv.unit0.adn.N.weight", "model.0.conv.unit0.adn.A.weight"),
        ("c2fnas", "encoder.stem.1.bias", "encoder.stem.0.weight"),
        ("kits21_resunet", "stem.1.weight", "stem.0.weight"),
        ("monet", "encode0.0.norm.running_var", "encode0.0.conv.weight"),
    ],
)
def test_norms_are_found_by_type(architecture: str, norm: str, other: str) -> None:
    parts = parts_of(network_of(architecture), architecture, [NORMS])
    assert norm in parts.norms
    assert other in parts.shared


def test_segviz_head_stays_at_its_site() -> None:
    network = network_of("segviz_unet")
    parts = parts_of(network, "segviz_unet", [HEAD])
    left = {n for n, t in network.state_dict().items() if t.is_floating_point()} - set(parts.shared)
    assert left == {n for n in network.state_dict() if n.startswith("model.2.") and "num_" not in n}
    assert parts.norms == ()
    both = parts_of(network, "segviz_unet", [HEAD, NORMS])
    assert not any(n.startswith("model.2.") or ".adn.N." in n for n in both.shared)


def test_only_segviz_has_a_known_head() -> None:
    with pytest.raises(BadParameter, match="not for monet"):
        parts_of(network_of("monet"), "monet", [HEAD])


def test_copies_are_no_views() -> None:
    network = nn.Linear(3, 2)
    copies = shared_weights(network, ["weight"])
    assert copies.keys() == {"weight"}
    assert copies["weight"].dtype == np.float32
    copies["weight"][:] = 5
    assert not bool((network.weight == 5).any())


def test_put_takes_what_is_read_only() -> None:
    network = nn.Linear(3, 2)
    bias = network.bias.detach().clone()
    value = np.frombuffer(np.arange(6, dtype="<f4").tobytes(), "<f4").reshape(2, 3)
    put(network, {"weight": value})
    assert network.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(network.bias, bias)
    assert network.weight.requires_grad


FLOATS = arrays(np.float32, 5, elements=st.floats(-100, 100, width=32))


@given(FLOATS, FLOATS)
def test_moved_adds_and_keeps_variances(
    value: NDArray[np.float32], by: NDArray[np.float32]
) -> None:
    names = ("weight", "norm.running_mean", "norm.running_var")
    result = moved(dict.fromkeys(names, value), dict.fromkeys(names, by))
    assert tuple(result) == names
    for name in names[:2]:
        assert np.array_equal(result[name], value + by)
    assert np.array_equal(result[names[2]], np.where(value + by > 0, value + by, 0))
    assert all(array.dtype == np.float32 for array in result.values())


def test_under_takes_a_prefix_off() -> None:
    value = np.zeros(1)
    assert under("a/", {"a/x": value, "a/a/y": value, "b/x": value}).keys() == {"x", "a/y"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wang2020", ["decoder.head.8.weight"]),
        ("segviz", ["model.2.1.conv.unit0.conv.weight", "model.2.1.conv.unit0.conv.bias"]),
        ("kits21-scratch", ["head.weight", "head.bias"]),
        ("starter-monet", ["head.0.weight", "head.1.weight", "head.1.bias"]),
        ("monet", []),
        # An organ's score is shared by its lesions.
        ("starter", []),
    ],
)
def test_rows_of_real_networks(name: str, expected: list[str]) -> None:
    made = recipe(name, "tiny")
    whole = Rows(0, tuple(range(made.channels)))
    assert rows_of(initial_network(made), made) == dict.fromkeys(expected, whole)


def test_a_sub_pixel_layer_has_a_row_for_every_voxel_of_a_block() -> None:
    made = recipe("starter-organs", "tiny")
    head = "network.output_block.conv.conv"
    rows = Rows(0, tuple(c for c in range(made.channels) for _ in range(8)))
    expected = {f"{head}.weight": rows, f"{head}.bias": rows}
    assert rows_of(initial_network(made), made) == expected


def unet(units: int) -> nn.Module:
    """MONAI's U-Net whose last step up has as many channels on both sides as it gives."""
    torch.manual_seed(0)
    net: nn.Module = UNet(3, 1, 5, channels=(5, 5), strides=(2,), num_res_units=units, bias=True)
    return net


def test_a_transposed_convolution_has_its_channels_on_its_second_axis() -> None:
    network = unet(0)
    last = network.state_dict()["model.2.conv.weight"]
    # What comes in is the skip beside what comes up: ten channels, and five go out.
    assert last.shape[:2] == (10, 5)
    rows = rows_of(network, recipe("segviz", "tiny"))
    assert rows["model.2.conv.weight"] == Rows(1, (0, 1, 2, 3, 4))
    assert rows["model.2.conv.bias"] == Rows(0, (0, 1, 2, 3, 4))
    assert rows.keys() == {"model.2.conv.weight", "model.2.conv.bias"}


def test_what_is_mixed_afterwards_belongs_to_no_channel() -> None:
    # The transposed convolution gives five channels too, and a residual unit mixes them.
    rows = rows_of(unet(2), recipe("segviz", "tiny"))
    assert rows.keys() == {"model.2.1.conv.unit0.conv.weight", "model.2.1.conv.unit0.conv.bias"}


def test_a_square_transposed_convolution_is_told_from_a_plain_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 5, 3, padding=1),
        nn.Softplus(),
        nn.ConvTranspose3d(5, 5, 2, 2),
        nn.AvgPool3d(2),
    )
    rows = rows_of(network, recipe("segviz", "tiny"))
    everyone = tuple(range(5))
    assert rows == {"2.weight": Rows(1, everyone), "2.bias": Rows(0, everyone)}


def test_looking_for_rows_changes_nothing() -> None:
    made = recipe("segviz", "tiny")
    network = initial_network(made).eval()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    rows_of(network, made)
    assert torch.equal(torch.rand(1), expected)
    assert not network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
