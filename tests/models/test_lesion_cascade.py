"""Organs by one network, lesions in them by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from imaging.errors import BadParameter, CorruptModel
from models.architectures.lesion_cascade import LesionCascade
from models.export import export
from models.onnxfile import of_organs, read_manifest
from models.postprocess import decide
from tests.models.manifests import manifest as small_manifest

SMALL = {"filters": [4, 8, 8]}
# Background, pancreas, its tumor, kidney, its tumor and cyst, liver.
ORGAN_OF = (0, 1, 1, 3, 3, 3, 6)


def cascade(**changes: Any) -> LesionCascade:
    torch.manual_seed(0)
    options: dict[str, Any] = {"organ_of": ORGAN_OF, "organs": SMALL, "lesions": SMALL}
    return LesionCascade(**({"channels": 7} | options | changes))


def test_the_first_network_says_where_organs_are_the_second_what_is_lesion() -> None:
    network = cascade().eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        found, organs, lesions = network(x)[0], network.organs(x)[0], network.lesions(x)[0]
    organ_of = torch.tensor(ORGAN_OF)
    label, organ = found.argmax(0), torch.tensor([0, 1, 3, 6])[organs.argmax(0)]
    assert torch.equal(organ_of[label], organ)
    # Members of families in the second network: pancreas 1, 2 and kidney 3, 4, 5.
    for first, last in ((1, 3), (3, 6)):
        inside = organ == first
        assert inside.any()
        healthy = lesions[[0, first]].amax(0)
        member = first + torch.stack([healthy, *lesions[first + 1 : last]]).argmax(0)
        assert torch.equal(label[inside], member[inside])
    assert torch.equal(found[6], organs[3]), "an organ without lesions is as the first has it"


def test_its_batch_norms_stay_as_they_are() -> None:
    network = cascade()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    assert norms
    before = [m.running_mean.clone() for m in norms if m.running_mean is not None]
    network.train()(torch.randn(1, 1, 32, 32, 32) + 3).sum().backward()
    assert network.training
    assert network.organs.training
    assert all(torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True))
    assert all(m.weight.grad is not None for m in norms)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 6},
        {"organ_of": (0, 1, 2, 3, 4, 5, 6)},
        {"organ_of": (0, 2, 2, 3, 3, 3, 6)},
        {"organ_of": (0, 0, 2, 3, 3, 3, 6)},
        {"organ_of": (0, 1, 1, 2, 3, 3, 6)},
        {"lesions": SMALL | {"norm": "layer"}},
        {"bulge": -1},
    ],
    ids=["count", "no lesion", "later", "of the background", "lesion of a lesion", "norm", "bulge"],
)
def test_other_families_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadParameter):
        cascade(**changes)


class Bright(nn.Module):
    """Organs by threshold: the pancreas over 1, the kidney over 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        liver = torch.full_like(x, -9.0)
        return torch.cat([1 - x, x - 1, 2 * x - 4, liver], 1)


class Tumors(nn.Module):
    """A pancreas tumor wherever it is asked, but none where the scan is dark."""

    divisor = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        none = torch.zeros_like(x)
        return torch.cat([none, none, 5 + 9 * x.clamp(max=0), none, none, none], 1)


@pytest.mark.parametrize("bulge", [0, 3])
@pytest.mark.parametrize("mode", ["in use", "in training"])
def test_a_lesion_reaches_so_far_beyond_its_organ_and_into_no_other(bulge: int, mode: str) -> None:
    network = cascade(bulge=bulge).train(mode == "in training")
    network.organs = Bright()  # type: ignore[assignment]
    network.lesions = Tumors()  # type: ignore[assignment]
    x = torch.zeros(1, 1, 48, 48, 48)
    x[..., 20:24, 20:24, 20:24] = 2
    x[..., 24:28, 20:24, 20:24] = 4
    x[..., 20:24, 20:24, 16:20] = -1
    wanted = torch.zeros(48, 48, 48, dtype=torch.int64)
    near = slice(20 - bulge, 24 + bulge)
    wanted[near, near, near] = 2
    wanted[20:24, 20:24, 16:20] = 0
    wanted[24:28, 20:24, 20:24] = 3
    assert torch.equal(network(x)[0].argmax(0), wanted)


def looking(network: LesionCascade) -> list[tuple[int, ...]]:
    """The sizes of what the second network sees, as they come."""
    seen: list[tuple[int, ...]] = []
    network.lesions.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    return seen


def scan(*, batch: int = 1) -> torch.Tensor:
    """A pancreas and a kidney in air; 36:60, 40:44, 70:72 around both."""
    x = torch.zeros(batch, 1, 96, 80, 112)
    x[:, :, 36:40, 40:44, 70:72] = 2
    x[-1, :, 56:60, 40:44, 70:72] = 4
    return x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))


def test_lesions_are_looked_for_around_organs_alone() -> None:
    network = cascade().eval()
    network.organs = Bright()  # type: ignore[assignment]
    seen = looking(network)
    with torch.no_grad():
        found, everywhere = network(scan(batch=2)), network.lesions(scan(batch=2))
    assert seen == [(64, 40, 40), (96, 80, 112)]
    organ = scan(batch=2)[:, 0] > 1
    assert torch.equal(found.argmax(1) > 0, organ)
    lesions = torch.cat([everywhere[:, :2].amax(1, keepdim=True), everywhere[:, 2:3]], 1)
    pancreas = organ & (scan(batch=2)[:, 0] < 3)
    same = (found.argmax(1) == 2) == (lesions.argmax(1) == 1)
    assert same[pancreas].all()
    # Where it did not look, a lesion is as good as excluded.
    assert (found[:, 1] - found[:, 2])[:, :16].min() == 10


def test_where_there_is_no_organ_next_to_nothing_is_looked_at() -> None:
    network = cascade().eval()
    network.organs = Bright()  # type: ignore[assignment]
    seen = looking(network)
    with torch.no_grad():
        found = network(torch.zeros(1, 1, 32, 48, 64))
    assert seen == [(8, 8, 8)]
    assert not found.argmax(1).any()


def exported(folder: Path, bulge: int = 0) -> tuple[Path, LesionCascade]:
    """A cascade that finds bright organs, as a file and as it is."""
    network = cascade(bulge=bulge).eval()
    network.organs = Bright()  # type: ignore[assignment]
    outputs = ("pancreas", "pancreas_tumor", "kidney", "kidney_tumor", "kidney_cyst", "liver")
    manifest = small_manifest(outputs=outputs, architecture="lesion_cascade", divisor=(16,) * 3)
    export(network, manifest, folder / "model.onnx")
    return folder / "model.onnx", network


def scans() -> list[torch.Tensor]:
    """Scans with organs in different places, two of them at once, and one without any."""
    return [scan(), scan(batch=2), scan()[..., 16:80].roll(20, 3), torch.zeros(1, 1, 32, 32, 32)]


def test_an_exported_network_looks_for_organs_anew(tmp_path: Path) -> None:
    path, network = exported(tmp_path, bulge=2)
    session = onnxruntime.InferenceSession(path)
    for x in scans():
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network(x), atol=1e-4, rtol=1e-4)


def test_organs_can_be_asked_for_alone(tmp_path: Path) -> None:
    path, network = exported(tmp_path)
    manifest, alone = read_manifest(path), of_organs(path.read_bytes(), "it")
    assert manifest.organs == ("pancreas", "kidney", "liver")
    session = onnxruntime.InferenceSession(alone)
    whole = onnxruntime.InferenceSession(path)
    assert [output.name for output in whole.get_outputs()] == ["scores"]
    assert len(onnx.load_from_string(alone).graph.node) < len(onnx.load(path).graph.node) / 2
    for x in scans():
        (found,) = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network.organs(x))
        (scores,) = whole.run(None, {"image": x.numpy()})
        # Pancreas 1, its tumor 2; kidney 3, its tumor 4 and cyst 5.
        organ_of = np.array([0, 1, 1, 3, 3, 3, 6], np.uint8)
        organs = decide(found[0], manifest.of_organs())
        np.testing.assert_array_equal(organ_of[decide(scores[0], manifest)], organs)


def test_a_graph_without_organs_says_so(tmp_path: Path) -> None:
    network = cascade().organs.eval()
    manifest = small_manifest(outputs=("pancreas", "kidney", "liver"), divisor=(16,) * 3)
    export(network, manifest, tmp_path / "model.onnx")
    assert read_manifest(tmp_path / "model.onnx").organs == ()
    with pytest.raises(CorruptModel, match="organs alone"):
        of_organs((tmp_path / "model.onnx").read_bytes(), "it")
