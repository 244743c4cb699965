"""The trainings that :mod:`benchmarks.training` measures, as a user of plain MONAI writes them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss, DiceLoss
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    FgBgToIndicesd,
    LoadImaged,
    MapLabelValued,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandSpatialCropd,
    Resized,
    ScaleIntensityd,
    ScaleIntensityRanged,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
    SqueezeDimd,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import RandomSampler

from models.architectures.c2fnas import C2FNAS
from models.labels import visible_as
from training.cases import Case
from training.recipe import Recipe
from training.trainer import initial_network, pick_device

_KEYS = ("image", "label")


@dataclass(frozen=True)
class Turn:
    """Seconds of a training: until its first epoch is done, and of the second; GPU use, %."""

    first_s: float
    epoch_s: float
    gpu: int | None


@dataclass(frozen=True)
class Peer:
    """A recipe as a user of MONAI writes it.

    Attributes:
        fixed: transforms that CacheDataset does once.
        random: transforms of every sample.
        loss: of a network, images (N, 1, *space) and label maps (N, 1, *space).
    """

    fixed: Callable[[Recipe], list[Callable[..., Any]]]
    random: Callable[[Recipe], list[Callable[..., Any]]]
    loss: Callable[[Recipe, nn.Module, Tensor, Tensor], Tensor]


def plain_turn(
    name: str, recipe: Recipe, cases: CacheDataset, workers: int, out: Path, device: str
) -> Turn:
    """The same training, written as MONAI's tutorials are."""
    marks, where = [time.perf_counter()], pick_device(device)
    torch.manual_seed(recipe.seed)
    network = initial_network(recipe).to(where).train()
    kind = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}[recipe.optimizer.name]
    optimizer = kind(network.parameters(), recipe.optimizer.lr)
    losses = []
    for step, batch in enumerate(loader_of(recipe, cases, workers), start=1):
        images, labels = (batch[key].to(where, non_blocking=True) for key in _KEYS)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
            loss = PEERS[name].loss(recipe, network, images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if step % recipe.steps_per_epoch == 0:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "losses": losses}, out / "last.pt")
            marks.append(time.perf_counter())
    return Turn(marks[1] - marks[0], marks[2] - marks[1], gpu_use(where))


def loader_of(recipe: Recipe, cases: CacheDataset, workers: int) -> DataLoader:
    """All batches of a training; any case any number of times, as Islet draws them."""
    return DataLoader(
        cases,
        batch_size=recipe.batch,
        sampler=RandomSampler(cases, True, recipe.batch * recipe.steps),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


def plain_set(name: str, cases: Sequence[Case], recipe: Recipe) -> CacheDataset:
    """Every case read and prepared, in memory."""
    peer, values = PEERS[name], cases[0].values
    channel = {name: i + 1 for i, name in enumerate(recipe.outputs)}
    seen = [visible_as(structure, set(recipe.outputs)) for structure in values.values()]
    fixed = [
        LoadImaged(_KEYS),
        EnsureChannelFirstd(_KEYS),
        Orientationd(_KEYS, axcodes="SPL", labels=None),
        MapLabelValued("label", list(values), [channel.get(s or "", 0) for s in seen]),
        *peer.fixed(recipe),
        # Arithmetic on tensors that carry metadata is slower; the fast tutorials drop it too.
        EnsureTyped(_KEYS, track_meta=False),
    ]
    steps = Compose([*fixed, *peer.random(recipe), SelectItemsd(_KEYS)])
    files = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    return CacheDataset(files, steps, progress=False)


def _wang2020_fixed(recipe: Recipe) -> list[Callable[..., Any]]:
    return [
        Spacingd(_KEYS, recipe.sampling.spacing_mm, mode=("bilinear", "nearest")),
        ScaleIntensityRanged("image", *recipe.intensity.window_hu, -1.0, 1.0, clip=True),
        SpatialPadd("image", recipe.patch, value=-1.0),
        SpatialPadd("label", recipe.patch),
        FgBgToIndicesd("label"),
    ]


def _wang2020_random(recipe: Recipe) -> list[Callable[..., Any]]:
    found = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
    return [RandCropByPosNegLabeld(_KEYS, "label", recipe.patch, num_samples=1, **found)]


def _wang2020_loss(recipe: Recipe, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    assert isinstance(network, C2FNAS)
    logits, made = network.forward_vae(images)
    mean, log_variance = made.mean.float(), made.log_variance.float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).mean()
    apart = functional.mse_loss(made.image.float(), images)
    smooth = recipe.loss.smooth
    segmentation = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=smooth, smooth_dr=smooth
    )
    plain: Tensor = segmentation(logits.float(), labels)
    return plain + recipe.loss.kl * divergence + recipe.loss.reconstruction * apart


def _monet_fixed(recipe: Recipe) -> list[Callable[..., Any]]:
    def slab(item: dict[str, Any]) -> dict[str, Any]:
        rows = item["label"][0].flatten(1).any(1).nonzero()
        low, high = max(0, int(rows.min()) - recipe.slab), int(rows.max()) + recipe.slab + 1
        return {key: item[key][:, low:high] for key in _KEYS}

    low, high = recipe.intensity.window_hu
    return [
        Resized(_KEYS, (-1, *recipe.patch[1:]), mode=("trilinear", "nearest")),
        ScaleIntensityRanged("image", low, high, low, high, clip=True),
        ScaleIntensityd("image"),
        slab,
    ]


def _monet_random(recipe: Recipe) -> list[Callable[..., Any]]:
    augment, size = recipe.augment, recipe.patch[1:]
    smallest, largest = augment.scale
    move = RandAffined(
        _KEYS,
        prob=1.0,
        rotate_range=math.radians(augment.rotate_deg[0]),
        scale_range=[(1 / largest - 1, 1 / smallest - 1)] * 2,
        translate_range=[augment.shift * n for n in size],
        mode=("bilinear", "nearest"),
        padding_mode="border",
    )
    return [RandSpatialCropd(_KEYS, recipe.patch, random_size=False), SqueezeDimd(_KEYS, 1), move]


def _monet_loss(recipe: Recipe, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    smooth = recipe.loss.smooth
    loss = DiceLoss(sigmoid=True, batch=True, smooth_nr=smooth, smooth_dr=smooth)
    found: Tensor = loss(network(images).float(), labels)
    return found


PEERS: Mapping[str, Peer] = {
    "wang2020": Peer(_wang2020_fixed, _wang2020_random, _wang2020_loss),
    "monet": Peer(_monet_fixed, _monet_random, _monet_loss),
}


def gpu_use(device: torch.device) -> int | None:
    """Percent of the last moments in which the GPU computed; ``None`` where nobody can say."""
    if device.type != "cuda":
        return None
    try:
        return int(torch.cuda.utilization())
    except (ModuleNotFoundError, RuntimeError):
        return None
