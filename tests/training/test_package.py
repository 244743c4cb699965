"""From a recipe to a manifest and to scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from imaging.errors import BadManifest
from models.architectures import ARCHITECTURES
from models.onnxfile import read_manifest
from tests.training.tiny import cases, flat, volumetric, write_decathlon
from training.datasets import open_dataset
from training.package import (
    export_recipe,
    inference_patch,
    manifest_of,
    onnx_scorer,
    provenance_of,
    structures_of,
    torch_scorer,
)
from training.recipes import RECIPES, recipe
from training.trainer import initial_network


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_manifest_repeats_it(name: str) -> None:
    one = recipe(name)
    task = 3 if one.tasks else None
    manifest = manifest_of(one, task=task)
    assert manifest.name == one.name + ("-pancreas" if one.tasks else "")
    assert manifest.outputs == (structures_of(one, 3) if one.tasks else one.outputs)
    assert (manifest.architecture, manifest.activation) == (one.architecture, one.activation)
    assert (manifest.sampling, manifest.intensity) == (one.sampling, one.intensity)
    kept = tuple(step for step in one.cleanup if step.structure in manifest.outputs)
    assert (manifest.cleanup, manifest.overlap) == (kept, one.overlap)
    assert manifest.channels == one.channels
    assert manifest.dims == ARCHITECTURES[one.architecture].dims
    assert all(a >= b for a, b in zip(manifest.patch, one.patch, strict=True))


def test_serving_never_sees_less_than_training_did() -> None:
    assert inference_patch(flat()) == (1, 16, 16)
    assert inference_patch(volumetric(patch=(80, 96, 96))) == (80, 208, 208)
    assert inference_patch(volumetric(patch=(128, 96, 224))) == (128, 208, 224)
    # A fine patch is as much as fits into memory.
    assert inference_patch(recipe("kits21-transfer")) == (128, 128, 128)
    assert inference_patch(volumetric(patch=(80, 96, 96), window=(96, 96, 128))) == (96, 96, 128)


def test_provenance_counts_cases_by_source(tmp_path: Path) -> None:
    found = open_dataset(write_decathlon(tmp_path))
    other = dataclasses.replace(found[0], source={"name": "other", "licence": "CC0"})
    provenance = provenance_of(volumetric(), [*found, other], phantoms=4, steps=9)
    assert [(d["name"], d["cases"]) for d in provenance.data] == [
        ("blocks", 2),
        ("other", 1),
        ("procedural phantoms", 4),
    ]
    assert (provenance.recipe, provenance.seed, provenance.steps) == ("tiny", 3, 9)
    assert provenance.scope == "central"
    assert {"islet", "torch", "monai"} == set(provenance.software)


def test_the_exported_scorer_agrees_with_torch(tmp_path: Path) -> None:
    one = volumetric()
    network = initial_network(one)
    path = tmp_path / "model.onnx"
    scores = {"dice": {"kidney": 0.5}}
    manifest, parity = export_recipe(
        network, one, provenance_of(one, (), 1, 2), path, cases(one, 1), scores
    )
    assert parity.max_difference < 1e-4
    assert read_manifest(path) == manifest
    assert manifest.scores == scores
    value = np.random.default_rng(0).standard_normal((1, 1, 24, 32, 16)).astype(np.float32)
    expected, found = torch_scorer(network)(value), onnx_scorer(path)(value)
    assert expected.shape == (1, 3, 24, 32, 16)
    assert np.allclose(expected, found, atol=1e-3)
    rough = torch_scorer(network, bf16=True)(value)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - expected).max() < 0.5


def test_a_torch_scorer_evaluates() -> None:
    network = initial_network(flat()).train()
    score = torch_scorer(network)
    value = np.ones((1, 1, 16, 16), np.float32)
    assert np.array_equal(score(value), score(value)), "no dropout, no running statistics"
    assert not any(module.training for module in network.modules())
    assert torch.is_grad_enabled()


def test_a_recipe_that_could_not_be_exported_has_no_manifest() -> None:
    with pytest.raises(BadManifest, match="multiple of divisor"):
        manifest_of(volumetric(patch=(16, 16, 212)))
