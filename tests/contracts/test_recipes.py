"""One tester for every recipe: two steps on a phantom, resumed and exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from imaging.errors import BadParameter, IsletError
from models.export import Parity
from models.onnxfile import read_manifest
from training.cases import Loaded
from training.fit import fit
from training.package import export_recipe, manifest_of, provenance_of, structures_of
from training.phantoms import ANNOTATED, PAINTED, make_phantom
from training.prepared import Prepared, prepare
from training.recipe import Optimizer, Recipe
from training.recipes import RECIPES, recipe

# Of the recipes with a dynamic head: a tumor without its organ, one channel of the head's two.
TASK = 4
SMALL: dict[str, dict[str, Any]] = {
    "monet": {"filters": 2},
    "unet64": {"filters": 2},
    "unet16": {"filters": 2},
    "attention_unet": {"filters": 2},
    "dynunet": {"filters": [2, 4, 4]},
    "subpixel_unet": {"filters": [2, 4, 4]},
    "lesion_cascade": {
        "organs": {"filters": [2, 4, 4]},
        "lesions": {"filters": [2, 4, 4], "norm": "batch"},
    },
    "c2fnas": {"filters": 2, "patch": [32, 32, 32]},
    "segviz_unet": {"filters": [2, 2, 4, 4, 4]},
    "dodnet": {"widths": [2, 2, 2, 4, 4], "repeats": [1] * 5, "groups": 2},
    "kits21_resunet": {
        "stem": 2,
        "planes": [1, 2, 2, 2],
        "expansion": 2,
        "repeats": [1] * 4,
        "decoder": [4, 4, 4, 4],
    },
}


def shrunk(full: Recipe) -> Recipe:
    """The recipe with a small network and patch and two steps; all else is its own."""
    z, _, _ = full.patch
    return dataclasses.replace(
        full,
        options=full.options | SMALL[full.architecture],
        patch=(1, 32, 32) if z == 1 else (32, 32, 32),
        batch=1,
        steps=2,
        steps_per_epoch=1,
        phantoms=0,
    )


def check_recipe(full: Recipe, phantom: Prepared, folder: Path) -> None:
    """What the registry promises of a recipe."""
    assert Recipe.from_json(full.to_json()) == full
    manifest_of(full, task=TASK if full.tasks else None)
    small = shrunk(full)
    whole = fit(small, [phantom], folder / "a", device="cpu", precision="fp32", quiet=True)
    assert [e["step"] for e in whole.history] == [1, 2]

    class Stop(Exception):
        pass

    def stop(_: dict[str, Any]) -> None:
        raise Stop

    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "quiet": True}
    with pytest.raises(Stop):
        fit(small, [phantom], folder / "b", hook=stop, **options)
    resumed = fit(small, [phantom], folder / "b", resume=True, **options)
    assert [e["loss"] for e in resumed.history] == [e["loss"] for e in whole.history]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    parity = _export(whole.network, small, phantom, folder / "model.onnx")
    assert parity.agreement > 0.999
    outputs = structures_of(full, TASK) if full.tasks else full.outputs
    assert read_manifest(folder / "model.onnx").outputs == outputs


def _export(network: torch.nn.Module, small: Recipe, real: Prepared, path: Path) -> Parity:
    provenance, task = provenance_of(small, (), 1, 2), TASK if small.tasks else None
    _, parity = export_recipe(network, small, provenance, path, [real], task=task)
    return parity


def phantom_for(wanted: Recipe) -> Prepared:
    """A coarse phantom with tumors, on the recipe's grid."""
    named = tuple(name for name in wanted.outputs if name in PAINTED)
    made = make_phantom(1, tumors=True, shape=(32, 48, 48), structures=(*ANNOTATED, *named))
    case = Loaded("phantom", made.volume, made.labels, made.annotated)
    return prepare(case, wanted, phantom=True)


@pytest.mark.parametrize("name", RECIPES)
def test_contract(name: str, tmp_path: Path) -> None:
    full = recipe(name)
    assert full.name == name
    check_recipe(full, phantom_for(full), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": Optimizer("sgd", 1e30, "constant", clip=0.0)},
        {"overlap": 1.5},
        {"name": "Name With Spaces"},
    ],
    ids=["diverges", "overlap", "name"],
)
def test_the_tester_catches(change: dict[str, Any], tmp_path: Path) -> None:
    broken = dataclasses.replace(recipe("starter"), **change)
    with pytest.raises((AssertionError, IsletError)):
        check_recipe(broken, phantom_for(broken), tmp_path)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadParameter, match=r"'stater'.*wang2020, segviz, .*starter"):
        recipe("stater")
