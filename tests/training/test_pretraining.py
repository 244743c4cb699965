"""Weights to start from: out of files and of the store, by name, shape and structure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from imaging.errors import BadParameter, DataError, ModelNotFound
from models.export import export
from models.manifest import Provenance
from models.onnxfile import embed, read_manifest
from models.store import Store
from tests.training.tiny import flat, volumetric
from training import checkpoint
from training.checkpoint import Checkpoint
from training.package import manifest_of
from training.pretraining import fine_tuned, start_from
from training.recipe import Loss, Recipe
from training.trainer import initial_network

HEAD = "output_block.conv.conv"


def learned(recipe: Recipe) -> nn.Module:
    """A network whose every tensor is unlike that of any seed, norms and statistics included."""
    network = initial_network(recipe)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return network


def published(recipe: Recipe, path: Path, network: nn.Module | None = None) -> Path:
    """The recipe's model as a file."""
    provenance = Provenance(recipe.name, data=({"name": "blocks", "licence": "CC0", "cases": 2},))
    export(network or learned(recipe), manifest_of(recipe, provenance), path)
    return path


@pytest.mark.parametrize("recipe", [volumetric(), flat()], ids=lambda r: r.architecture)
def test_a_file_gives_every_weight_back(recipe: Recipe, tmp_path: Path) -> None:
    given = learned(recipe)
    path = published(recipe, tmp_path / "model.onnx", given)
    begun = start_from(dataclasses.replace(recipe, seed=9), path)
    assert (begun.share, begun.fresh) == (1.0, ())
    for name, value in given.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(begun.state[name], value), name
    expected = str(read_manifest(path).weights_sha256)[:12]
    assert str(begun) == f"starts from {recipe.name} ({expected}): 100.0% of the weights"


def test_equal_tensors_stay_apart_in_a_file(tmp_path: Path) -> None:
    # Fresh norms are all ones and zeros, which an exporter may keep as one tensor.
    path = published(volumetric(), tmp_path / "model.onnx", initial_network(volumetric()))
    assert start_from(volumetric(seed=8), path).share == 1.0


def test_a_model_of_the_store_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "store"))
    path = published(volumetric(), tmp_path / "model.onnx")
    Store(tmp_path / "store").publish(path, ["global"])
    begun = start_from(volumetric(), "tiny@global")
    assert begun.name == "tiny@1"
    weights, before = begun.data
    assert weights == {"name": "weights of tiny@1", "licence": "research use only"}
    assert before == {"name": "blocks", "licence": "CC0", "cases": 2, "through": "tiny@1"}
    with pytest.raises(ModelNotFound, match="tiny@nowhere"):
        start_from(volumetric(), "tiny@nowhere")


def test_other_structures_take_their_own_slices(tmp_path: Path) -> None:
    given = learned(volumetric())
    path = published(volumetric(), tmp_path / "model.onnx", given)
    wanted = volumetric(outputs=("liver", "kidney", "spleen"))
    begun, seeded = start_from(wanted, path), initial_network(wanted).state_dict()
    assert begun.fresh == ("liver", "spleen")
    assert 0.9 < begun.share < 1
    for part in ("weight", "bias"):
        own, old = begun.state[f"{HEAD}.{part}"], given.state_dict()[f"{HEAD}.{part}"]
        fresh = seeded[f"{HEAD}.{part}"]
        # Channels here: background, liver, kidney, spleen; there: background, pancreas, kidney.
        assert torch.equal(own[[0, 2]], old[[0, 2]])
        assert torch.equal(own[[1, 3]], fresh[[1, 3]])
    body = "input_block.conv1.conv.weight"
    assert torch.equal(begun.state[body], given.state_dict()[body])


def test_a_channel_in_slices_is_taken_whole(tmp_path: Path) -> None:
    """A sub-pixel layer answers each channel's voxels of a block in slices of its own."""
    there = volumetric(architecture="subpixel_unet", patch=(16, 16, 16))
    given = learned(there)
    path = published(there, tmp_path / "model.onnx", given)
    wanted = dataclasses.replace(there, outputs=("liver", "kidney", "pancreas"))
    begun, seeded = start_from(wanted, path), initial_network(wanted).state_dict()
    assert begun.fresh == ("liver",)
    names = [n for n, value in begun.state.items() if value.shape != given.state_dict()[n].shape]
    assert names
    for name in names:
        own, old, fresh = (s[name] for s in (begun.state, given.state_dict(), seeded))
        own, old, fresh = (t.unflatten(0, (-1, 8)) for t in (own, old, fresh))
        # Channels here: background, liver, kidney, pancreas; there: background, pancreas, kidney.
        assert torch.equal(own[[0, 2, 3]], old[[0, 2, 1]])
        assert torch.equal(own[1], fresh[1])


def test_one_structure_of_a_softmax_is_taken_into_a_sigmoid(tmp_path: Path) -> None:
    given = learned(volumetric())
    path = published(volumetric(), tmp_path / "model.onnx", given)
    alone = volumetric(outputs=("kidney",), activation="sigmoid", loss=Loss("dice"))
    begun = start_from(alone, path)
    assert begun.fresh == ()
    own, old = begun.state[f"{HEAD}.weight"], given.state_dict()[f"{HEAD}.weight"]
    assert torch.equal(own[0], old[2])


def test_what_training_alone_needs_is_fresh_and_said(tmp_path: Path) -> None:
    deep = volumetric(options={"filters": [4, 8, 8], "deep": 1})
    path = published(deep, tmp_path / "model.onnx")
    begun = start_from(deep, path)
    assert begun.fresh
    assert all(name.startswith("deep_supervision_heads") for name in begun.fresh), begun.fresh
    assert "fresh: deep_supervision_heads" in str(begun)


def saved(recipe: Recipe, path: Path) -> Path:
    state = initial_network(recipe).state_dict()
    checkpoint.save(Checkpoint(recipe.to_json(), 3, state, {}, {}, (0.0, 0)), path)
    return path


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = published(volumetric(), tmp_path / "model.onnx")
    with pytest.raises(BadParameter, match="another network than monet: dynunet"):
        start_from(flat(), path)
    wider = volumetric(options={"filters": [6, 12, 12]})
    with pytest.raises(BadParameter, match="fit by name and shape"):
        start_from(wider, path)
    with pytest.raises(BadParameter, match=r"a training of tiny \(3 steps\) holds weights"):
        start_from(wider, saved(volumetric(), tmp_path / "last.pt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no checkpoint"):
        start_from(volumetric(), tmp_path / "empty")


def test_a_file_of_folded_weights_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = published(volumetric(), tmp_path / "model.onnx")
    model = onnx.load(path)
    for index, tensor in enumerate(model.graph.initializer):
        tensor.name = f"onnx::Conv_{index}"
    embed(model, read_manifest(path), tmp_path / "folded.onnx")
    with pytest.raises(BadParameter, match=r"0% of them fit .* exported again from its run"):
        start_from(volumetric(), tmp_path / "folded.onnx")


def test_fine_tuning_is_shorter_and_slower() -> None:
    recipe = volumetric(steps=1000, steps_per_epoch=500)
    tuned = fine_tuned(recipe)
    assert (tuned.steps, tuned.steps_per_epoch) == (200, 200)
    assert tuned.optimizer.lr == pytest.approx(recipe.optimizer.lr / 2)
    assert (
        dataclasses.replace(tuned, steps=1000, steps_per_epoch=500, optimizer=recipe.optimizer)
        == recipe
    )
    own = dataclasses.replace(recipe, pretrain="mots-kits21")
    assert fine_tuned(own) == own
