"""The throughput benchmark at toy size: what it reports, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.plain import PEERS, loader_of, plain_set
from benchmarks.training import Settings, as_markdown, measure
from imaging.errors import BadParameter
from training.cache import cached
from training.datasets import open_dataset
from training.losses import fold
from training.objective import Objective
from training.phantoms import write_set
from training.recipes import recipe
from training.samples import Sampler
from training.trainer import initial_network

# MONAI looks for decoders that it was not installed with, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("throughput") / "data"
    write_set(folder, 1, seed=0, shape=(24, 48, 48))
    return folder


def test_both_sides_are_measured_and_compared() -> None:
    settings = Settings(("monet",), repeats=1, steps=1, cases=1, shape=(24, 48, 48), device="cpu")
    result = json.loads(json.dumps(measure(settings).to_json()))
    sides = result["sides"]
    assert list(sides) == ["monet, islet", "monet, plain", "monet, plain, 2 workers"]
    rates = [side["median"] for side in sides.values()]
    assert min(rates) > 0
    assert result["ratios"]["monet_islet_to_plain"] == pytest.approx(rates[0] / max(rates[1:]))
    row = result["recipes"]["monet"]["sides"]["islet"]
    wanted = f"| monet | islet | {row['first_s']['median']:.2f} |"
    assert wanted in as_markdown(result["recipes"])


@pytest.mark.parametrize("name", list(PEERS))
def test_both_sides_draw_alike(name: str, data: Path, tmp_path: Path) -> None:
    wanted, cases = recipe(name, "tiny"), open_dataset(data)
    ours = Sampler([cached(c, wanted, tmp_path) for c in cases], wanted).batch(0)
    theirs = next(iter(loader_of(wanted, plain_set(name, cases, wanted), 0)))
    assert theirs["image"].shape == ours.images.shape
    assert theirs["label"].shape[2:] == ours.targets.shape[1:]
    low = -1.0 if name == "wang2020" else 0.0
    for images in (ours.images, theirs["image"]):
        assert images.min() >= low - 1e-5
        assert images.max() <= 1 + 1e-5
    assert set(theirs["label"].unique().tolist()) <= set(range(1 + len(wanted.outputs)))


@pytest.mark.parametrize("name", list(PEERS))
def test_both_sides_minimise_the_same(name: str) -> None:
    wanted = recipe(name, "tiny")
    torch.manual_seed(0)
    space = wanted.patch if wanted.patch[0] > 1 else wanted.patch[1:]
    images = torch.rand(2, 1, *space)
    labels = torch.randint(0, 1 + len(wanted.outputs), (2, 1, *space))
    folds = torch.stack([fold(wanted.outputs, wanted.outputs)] * 2)
    # Both in training mode: dropout and the latent's noise are the seed's.
    network = initial_network(wanted).train()
    torch.manual_seed(1)
    objective = Objective(network, wanted)
    ours = objective(images, labels[:, 0], folds, torch.zeros(2).long()).item()
    torch.manual_seed(1)
    theirs = PEERS[name].loss(wanted, network, images, labels).item()
    assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"recipes": ("starter",)}, {"recipes": ()}, {"repeats": 0}, {"steps": 0}]
)
def test_what_cannot_be_measured_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Settings(**wrong)  # type: ignore[arg-type]
