"""ONNX export: the file computes what the network does, or is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import models.export as exporting
from imaging.errors import CorruptModel
from models.export import compare, export
from models.manifest import Intensity, Manifest, Provenance, Sampling
from models.onnxfile import read_manifest, read_weights


def manifest(outputs: tuple[str, ...] = ("pancreas",), activation: str = "softmax") -> Manifest:
    return Manifest(
        name="tiny",
        architecture="conv",
        sampling=Sampling((None, None, None)),
        intensity=Intensity((-100.0, 100.0)),
        dims=2,
        patch=(1, 32, 32),
        divisor=(1, 4, 4),
        outputs=outputs,
        activation=activation,
        provenance=Provenance("test"),
    )


def network(channels: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ELU(), nn.Conv2d(4, channels, 1)
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    path = tmp_path_factory.mktemp("export") / "deep" / "model.onnx"
    net = network().train()
    returned, parity = export(net, manifest(), path)
    assert parity.max_difference < 1e-5
    assert parity.agreement == 1
    assert read_manifest(path) == returned
    assert returned.weights_sha256 is not None
    return path, net


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 1, 20, 44), (1, 1, 64, 8)])
def test_any_batch_and_size_gives_the_networks_scores(
    exported: tuple[Path, nn.Module], shape: tuple[int, ...]
) -> None:
    path, net = exported
    value = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": value})[0]
    with torch.no_grad():
        assert np.allclose(found, net(torch.from_numpy(value)).numpy(), atol=1e-5)


def test_the_network_is_left_in_evaluation_mode(exported: tuple[Path, nn.Module]) -> None:
    assert not exported[1].training


def test_no_path_of_the_machine_is_in_the_file(exported: tuple[Path, nn.Module]) -> None:
    data = exported[0].read_bytes()
    checkout = Path(__file__).resolve().parents[2]
    for secret in (str(checkout), "site-packages", str(Path.home()) + "/", ".py"):
        assert secret.encode() not in data, secret


def test_another_computation_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporting._to_onnx

    def other(_: nn.Module, wanted: Manifest) -> onnx.ModelProto:
        changed = network().eval()
        with torch.no_grad():
            changed[3].bias += 0.01  # type: ignore[operator,union-attr]
        return honest(changed, wanted)

    monkeypatch.setattr(exporting, "_to_onnx", other)
    with pytest.raises(CorruptModel, match="differs from its network") as caught:
        export(network(), manifest(), tmp_path / "model.onnx")
    assert caught.value.details["max_difference"] > 1e-4
    assert not (tmp_path / "model.onnx").exists()


def test_a_difference_that_is_no_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporting._to_onnx

    def broken(_: nn.Module, wanted: Manifest) -> onnx.ModelProto:
        changed = network(1).eval()
        with torch.no_grad():
            changed[3].bias.fill_(torch.nan)  # type: ignore[operator,union-attr]
        return honest(changed, wanted)

    monkeypatch.setattr(exporting, "_to_onnx", broken)
    # Every logit is negative, so that NaN > 0 agrees with it everywhere.
    low = network(1)
    with torch.no_grad():
        low[3].bias.fill_(-100)  # type: ignore[operator,union-attr]
    with pytest.raises(CorruptModel):
        export(low, manifest(activation="sigmoid"), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_parity_counts_voxels_that_change_their_decision(
    exported: tuple[Path, nn.Module],
) -> None:
    class Swapped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = exported[1](x).flip(1)
            return out

    value = np.random.default_rng(2).standard_normal((1, 1, 16, 16)).astype(np.float32)
    parity = compare(Swapped(), exported[0].read_bytes(), manifest(), [value])
    assert parity.agreement < 0.01


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm3d(2, affine=True), nn.InstanceNorm3d(2), nn.GroupNorm(1, 2)],
    ids=["instance affine", "instance", "group"],
)
def test_norms_over_millions_of_equal_voxels_stay_exact(norm: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), norm)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    wanted = Manifest(
        name="norm",
        architecture="norm",
        sampling=Sampling((None, None, None)),
        intensity=Intensity((-100.0, 100.0)),
        dims=3,
        patch=(96, 160, 160),
        outputs=("pancreas",),
        provenance=Provenance("test"),
    )
    # Mostly air, as a CT is.
    sample = np.full((1, 1, 96, 160, 160), -1, np.float32)
    sample[..., 40:120, 30:130] = np.random.default_rng(0).uniform(-1, 1, (96, 80, 100))
    _, parity = export(net, wanted, tmp_path / "model.onnx", [sample])
    assert parity.max_difference < 1e-5


class _Scaled(nn.Module):
    """A part of a network that is written in another form."""

    def __init__(self, written: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([1.5]))
        self.written = written

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Cannot be traced: the shape of what comes out depends on the data.
        return x * self.factor if self.factor.item() > 0 else x

    def exportable(self) -> nn.Module:
        plain = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(plain.weight, self.written)
        return plain


@pytest.mark.parametrize("outermost", [True, False])
def test_a_part_is_written_in_the_form_it_offers(outermost: bool, tmp_path: Path) -> None:
    part = _Scaled(1.5)
    net: nn.Module = part if outermost else nn.Sequential(nn.Identity(), nn.Sequential(part))
    _, parity = export(net, manifest(activation="sigmoid"), tmp_path / "model.onnx")
    assert parity.max_difference < 1e-6
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert nodes == ["Conv"]
    # The network itself keeps its own form.
    assert part.factor.item() == 1.5
    assert outermost or net[1][0] is part  # type: ignore[index]


def test_a_form_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="differs"):
        export(_Scaled(1.6), manifest(activation="sigmoid"), tmp_path / "model.onnx")


class Frozen(nn.Module):
    """Writes the example's size into its trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = [int(side) for side in x.shape]
        return torch.cat([x, -x], 1).reshape(sides[0], 2, *sides[2:])


def test_a_size_that_the_trace_froze_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="frozen"):
        export(Frozen(), manifest(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_halves_are_half_the_file_and_the_rounded_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ELU(), nn.Conv2d(64, 64, 3, padding=1))
    net.append(nn.Conv2d(64, 2, 1))
    before = [weight.clone() for weight in net.parameters()]
    export(net, manifest(), tmp_path / "whole.onnx")
    _, parity = export(net, manifest(), tmp_path / "half.onnx", half=True)
    assert parity.max_difference < 1e-5
    for weight, kept in zip(net.parameters(), before, strict=True):
        assert torch.equal(weight, kept)
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    weights = read_weights(tmp_path / "half.onnx")
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    for name, weight in net.named_parameters():
        found = torch.from_numpy(weights[name])
        expected = weight.half().float() if weight.numel() >= 1024 else weight
        assert torch.equal(found, expected)
    value = np.random.default_rng(2).standard_normal((1, 1, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx")
    found = session.run(None, {"image": value})[0]
    expected = net(torch.from_numpy(value)).detach().numpy()
    assert 0 < np.abs(found - expected).max() < 1e-2
