"""From a recipe and its trained network to the manifest and the ONNX file that serving loads."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imaging.version import VERSION
from models.architectures import ARCHITECTURES
from models.architectures.dynamic_head import DynamicHead
from models.export import Parity, export
from models.manifest import Manifest, Provenance
from models.onnxfile import read_finder
from models.preprocess import normalise
from models.scorer import Scorer
from models.tiling import tile
from training.cases import Case
from training.prepared import Prepared
from training.recipe import Recipe

# From this spacing on a whole slice is one patch.
_WHOLE_SLICES_MM = 2.5


def manifest_of(
    recipe: Recipe,
    provenance: Provenance | None = None,
    scores: dict[str, Any] | None = None,
    task: int | None = None,
) -> Manifest:
    """What a model made by a recipe says of itself.

    Args:
        recipe: what was trained.
        provenance, scores: of the manifest.
        task: of a network with a dynamic head, the one that is folded in.
    """
    outputs = recipe.outputs if task is None else structures_of(recipe, task)
    divisor = ARCHITECTURES[recipe.architecture].divisor
    dims = ARCHITECTURES[recipe.architecture].dims
    return Manifest(
        name=recipe.name if task is None else f"{recipe.name}-{task_name(recipe, task)}",
        architecture=recipe.architecture,
        sampling=recipe.sampling,
        intensity=recipe.intensity,
        dims=dims,
        patch=inference_patch(recipe),
        divisor=(1 if dims == 2 else divisor, divisor, divisor),
        overlap=recipe.overlap,
        edge_mm=recipe.edge_mm,
        activation=recipe.activation,
        outputs=outputs,
        cleanup=tuple(step for step in recipe.cleanup if step.structure in outputs),
        provenance=provenance or Provenance(recipe.name),
        scores=scores or {},
    )


def structures_of(recipe: Recipe, task: int) -> tuple[str, ...]:
    """The structures of one task, organ first."""
    return tuple(name for name in recipe.tasks[task] if name)


def task_name(recipe: Recipe, task: int) -> str:
    """What tells a task from the others: its organ, or its tumor where it has none."""
    return structures_of(recipe, task)[0].replace("_", "-")


def inference_patch(recipe: Recipe) -> tuple[int, int, int]:
    """The patch of serving: the recipe's own where it names one.

    Else a coarse 3D network sees whole slices of an abdomen at a time. Overlap is computed twice,
    and in the slice it would be on two axes: at 2.5 mm and more, the 520 mm of any scanner fit into
    one patch. Its depth is that of training, which bounds memory; at a finer spacing the whole
    patch is.
    """
    if recipe.window is not None:
        return recipe.window
    z, y, x = recipe.patch
    coarse = all(s is not None and s >= _WHOLE_SLICES_MM for s in recipe.sampling.spacing_mm[1:])
    return (z, max(y, 208), max(x, 208)) if z > 1 and coarse else (z, y, x)


def provenance_of(recipe: Recipe, cases: Sequence[Case], phantoms: int, steps: int) -> Provenance:
    """Where a centrally trained model's weights come from."""
    sets: dict[tuple[tuple[str, str], ...], int] = {}
    for case in cases:
        key = tuple(sorted(case.source.items()))
        sets[key] = sets.get(key, 0) + 1
    data = [{**dict(key), "cases": count} for key, count in sets.items()]
    if phantoms:
        data.append({"name": "procedural phantoms", "labels": "exact", "cases": phantoms})
    return Provenance(
        recipe=recipe.name,
        data=tuple(data),
        seed=recipe.seed,
        steps=steps,
        software={"islet": VERSION, "torch": torch.__version__, "monai": version("monai")},
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def export_recipe(
    network: nn.Module,
    recipe: Recipe,
    provenance: Provenance,
    path: Path,
    real: Sequence[Prepared] = (),
    scores: dict[str, Any] | None = None,
    task: int | None = None,
) -> tuple[Manifest, Parity]:
    """Export a recipe's network, compared with torch on random and on the real inputs given.

    Args:
        network: trained.
        recipe, provenance, scores, task: as in :func:`manifest_of`.
        path: of the ``.onnx`` file.
        real: cases to take real inputs from.
    """
    manifest = manifest_of(recipe, provenance, scores, task)
    if task is not None:
        network = _OfTask(network, recipe, task)
    samples = [_real_input(case, manifest) for case in real]
    return export(network, manifest, path, samples, recipe.half)


class _OfTask(nn.Module):
    """A network with a dynamic head, for one task: its structures' channels only."""

    def __init__(self, network: nn.Module, recipe: Recipe, task: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for part in self.network.modules():
            if isinstance(part, DynamicHead):
                part.task = task
        named = [channel for channel, name in enumerate(recipe.tasks[task]) if name]
        self.first, self.last = named[0], named[-1] + 1

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores[:, self.first : self.last]


def torch_scorer(network: nn.Module, bf16: bool = False) -> Scorer:
    """The network as ``models.predict`` wants it; it stays where it is (CPU or GPU)."""
    network.eval()
    device = next(network.parameters()).device

    def score(patches: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result: NDArray[Any] = (
                network(torch.from_numpy(patches).to(device)).float().cpu().numpy()
            )
            return result

    return score


def onnx_scorer(path: Path) -> Scorer:
    """An exported model on the CPU, as ``models.predict`` wants it."""
    return _scorer(path.read_bytes())


def onnx_finder(path: Path, manifest: Manifest) -> Scorer | None:
    """The finder in an exported model's file; ``None`` where its manifest has none."""
    if manifest.finder is None:
        return None
    return _scorer(read_finder(path.read_bytes(), manifest.finder))


def _scorer(data: bytes) -> Scorer:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def score(patches: NDArray[np.float32]) -> NDArray[Any]:
        result: NDArray[Any] = session.run(None, {name: patches})[0]
        return result

    return score


def _real_input(case: Prepared, manifest: Manifest) -> NDArray[np.float32]:
    """One patch from the middle of a case, as the network sees it."""
    image = normalise(case.hu, manifest.intensity)
    tiling = tile(image.shape, manifest.patch, manifest.divisor, manifest.overlap)
    image = np.pad(image, [(0, p - n) for p, n in zip(tiling.padded, image.shape, strict=True)])
    start = [s[len(s) // 2] for s in tiling.starts]
    if manifest.dims == 2:
        start[0] = image.shape[0] // 2
    patch = image[tuple(slice(s, s + n) for s, n in zip(start, tiling.patch, strict=True))]
    return patch[None] if manifest.dims == 2 else patch[None, None]
