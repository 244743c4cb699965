"""What a slice-wise network alone takes on a CPU: in Islet's engine, and as a user has it at once.

    python -m benchmarks.network [--slices 150] [--size 256] [--model REFERENCE] [--larger NET ...]
                                 [--repeats N] [--json FILE]

MoNet in the engine, which is the fastest runtime whose masks are ONNX Runtime's; in torch as it is
written; in ONNX Runtime with no options. The paper's three baselines in the same engine, U-Net-16
in ONNX Runtime with no options too. All get the same slices of a phantom, as many at a time as the
pipeline gives, in turns. The networks are untrained, or MoNet's sides are a model of the store:
the time does not depend on the weights; how much masks differ does, see ``dice`` in the JSON.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.frame import Bar, Result, arguments, finish, ratio, timed, turns
from benchmarks.roofline import least_seconds, operations, probes, rates_of, traffic
from imaging.errors import BadParameter, IsletError
from imaging.threads import usable_cores
from models import architectures
from models.manifest import Manifest, Provenance
from models.postprocess import decide
from models.predict import SLICES_AT_ONCE as BATCH
from models.preprocess import normalise
from models.scorer import Scorer
from models.store import default_store
from serving.engines import openvino
from serving.engines.choice import same_masks
from serving.engines.compare import record
from serving.engines.onnx_runtime import OnnxRuntime
from serving.engines.openvino import PRECISIONS, OpenVino
from serving.engines.overlaps import Overlaps
from serving.engines.runtime import Runtime
from training.package import export_recipe, onnx_scorer, torch_scorer
from training.phantoms import make_phantom
from training.pretraining import read_given
from training.recipes import recipe as named_recipe
from training.trainer import initial_network

F32 = NDArray[np.float32]

BARS = {
    "torch_eager_to_engine": Bar(least=4),
    "onnxruntime_defaults_to_engine": Bar(least=2.5),
    "unet16_onnxruntime_defaults_to_engine": Bar(least=1),
}
# Baselines of the paper that take minutes, with their recipes.
LARGER = {"unet64": "monet-unet64", "attention_unet": "monet-attention-unet"}
_VIEW_MM, _SLICE_MM = 380.0, 20.0
_CHOOSING_TURNS = 3


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        slices: of each side in a turn.
        size: pixels of a slice's side.
        repeats: turns that count.
        model: reference of a 2D model of the store for MoNet's sides; ``None`` is untrained.
        larger: of :data:`LARGER`, those that run too.

    Raises:
        BadParameter: no slice or turn, a size that the networks do not take, or another network.
    """

    slices: int = 150
    size: int = 256
    repeats: int = 3
    model: str | None = None
    larger: tuple[str, ...] = tuple(LARGER)

    def __post_init__(self) -> None:
        if min(self.slices, self.repeats) < 1:
            raise BadParameter(
                f"slices and repeats must be at least 1, not {self.slices} and {self.repeats}."
            )
        if self.size < 32 or self.size % 16:
            raise BadParameter(f"size must be a multiple of 16 from 32 on, not {self.size}.")
        if not set(self.larger) <= set(LARGER):
            raise BadParameter(f"larger must be of {', '.join(LARGER)}, not {self.larger}.")


@dataclass(frozen=True, eq=False)
class Network:
    """A network as torch has it, and its file.

    Attributes:
        module: in torch.
        path: of the ONNX file.
        manifest: of that, with the Dice of other runtimes' masks.
    """

    module: nn.Module
    path: Path
    manifest: Manifest


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    default = Settings()
    parser = arguments(__doc__, default.repeats)
    parser.add_argument("--slices", type=int, default=default.slices)
    parser.add_argument("--size", type=int, default=default.size, help="pixels of a slice's side")
    parser.add_argument("--model", help="of the store, for MoNet's sides (default: untrained)")
    parser.add_argument(
        "--larger", nargs="*", choices=LARGER, default=default.larger, help="beside U-Net-16"
    )
    args = parser.parse_args()
    settings = Settings(args.slices, args.size, args.repeats, args.model, tuple(args.larger))
    return finish(measure(settings), args.json)


def measure(settings: Settings) -> Result:
    """All sides in turns, after a batch of each that is not counted; seconds."""
    hu = _phantom(settings)
    with tempfile.TemporaryDirectory() as folder:
        networks = _networks(settings, hu, Path(folder))
        monet = networks["monet"]
        given = _input(hu, monet.manifest)
        runtime, batch_s = fastest(monet, given[:BATCH])
        sides = _sides(networks, runtime)
        found = _measured(sides, given, settings.repeats)
        bound = _bound(monet.module, given, sides["engine"], runtime, found)
        marked = _labels(sides["engine"], given[:BATCH], monet.manifest) > 0
    seconds = {name: found[name] for name in sides}
    line = "roofline of MoNet", bound["least_s"]
    ratios = {f"{name}_to_engine": ratio(seconds, name, "engine") for name in list(seconds)[1:]}
    ratios["engine_to_roofline"] = statistics.median(seconds["engine"]) / bound["least_s"]
    facts = {
        "settings": asdict(settings),
        "batch": BATCH,
        "weights": settings.model or "untrained",
        "runtime": runtime,
        "seconds_of_a_batch": batch_s,
        "dice": {name: dict(network.manifest.fidelity) for name, network in networks.items()},
        "part_in_mask": float(marked.mean()),
        "roofline": bound,
    }
    question = f"{settings.slices} slices of {settings.size}x{settings.size}, networks alone, CPU"
    return Result(question, seconds, ratios, BARS, facts=facts, line=line)


def fidelity(path: Path, manifest: Manifest, given: F32) -> dict[str, float]:
    """The Dice of other runtimes' masks with those of ONNX Runtime, on slices.

    Args:
        path: of an ONNX file.
        manifest: of that.
        given: network input (N, 1, Y, X).

    Returns:
        The least of any structure, by the names of the runtimes that this machine has and that
        run the file.
    """
    expected = _labels(_loaded(path, OnnxRuntime.name), given, manifest)
    found = {}
    for name in openvino.usable():
        try:
            other = _labels(_loaded(path, name), given, manifest)
        except IsletError as error:
            print(f"{manifest.name} does not run in {name}: {error.message}", file=sys.stderr)
            continue
        overlaps = Overlaps(manifest.outputs)
        overlaps.add(expected, other)
        found[name] = overlaps.least_dice()
    return found


def fastest(network: Network, given: F32) -> tuple[str, dict[str, float]]:
    """What :mod:`serving.engines.choice` would take, measured now and on this input.

    Returns:
        The name of the runtime; the median seconds of all whose masks are the same.
    """
    names = (OnnxRuntime.name, *same_masks(network.manifest))
    sides = {name: timed(partial(_loaded(network.path, name), given)) for name in names}
    taken = {n: statistics.median(s) for n, s in turns(sides, _CHOOSING_TURNS).items()}
    return min(taken, key=taken.__getitem__), taken


def _phantom(settings: Settings) -> NDArray[np.generic]:
    """Slices (n, Y, X) in HU: a batch of different ones, as often as it takes."""
    pixel_mm = _VIEW_MM / settings.size
    shape, spacing_mm = (BATCH, settings.size, settings.size), (_SLICE_MM, pixel_mm, pixel_mm)
    hu = make_phantom(7, "a-thin-portal", shape=shape, spacing_mm=spacing_mm).volume.array
    return hu[np.arange(settings.slices) % BATCH]


def _input(hu: NDArray[np.generic], manifest: Manifest) -> F32:
    return normalise(hu, manifest.intensity)[:, None]


def _networks(settings: Settings, hu: NDArray[np.generic], folder: Path) -> dict[str, Network]:
    """MoNet first, then its baselines."""
    recipes = {"unet16": "monet-unet16", **{name: LARGER[name] for name in settings.larger}}
    monet = (
        _untrained("monet", hu, folder)
        if settings.model is None
        else _of_store(settings.model, settings.size)
    )
    return {"monet": monet, **{n: _untrained(r, hu, folder) for n, r in recipes.items()}}


def _untrained(name: str, hu: NDArray[np.generic], folder: Path) -> Network:
    """A recipe's first weights, its file and how much its masks differ between runtimes."""
    recipe, path = named_recipe(name), folder / f"{name}.onnx"
    module = initial_network(recipe)
    manifest, _ = export_recipe(module, recipe, Provenance(name), path)
    dice = fidelity(path, manifest, _input(hu[:BATCH], manifest))
    return Network(module, path, record(path, dice))


def _of_store(reference: str, size: int) -> Network:
    """A model of the store, with what its manifest says of its masks."""
    stored = default_store().resolve(reference)
    manifest, divisor = stored.manifest, max(stored.manifest.divisor)
    if manifest.dims != 2 or size % divisor:
        raise BadParameter(
            f"{stored.reference} has {manifest.dims} dimensions and takes multiples of {divisor}, "
            f"not slices of {size}; name another model, or --size."
        )
    given = read_given(stored.path)
    module = architectures.build(given.architecture, len(given.channels))
    try:
        left = module.load_state_dict(given.network, strict=False).missing_keys
    except RuntimeError:
        left = list(given.network)
    if any(not name.endswith("num_batches_tracked") for name in left):
        raise BadParameter(
            f"{stored.reference} is no plain {given.architecture}, so torch cannot run it here; "
            "name a model of another recipe."
        )
    return Network(module, stored.path, manifest)


def _sides(networks: Mapping[str, Network], runtime: str) -> dict[str, Scorer]:
    monet, *others = networks
    engines = {f"{name}_engine": _loaded(networks[name].path, runtime) for name in others}
    return {
        "engine": _loaded(networks[monet].path, runtime),
        "torch_eager": torch_scorer(networks[monet].module),
        "onnxruntime_defaults": onnx_scorer(networks[monet].path),
        "unet16_onnxruntime_defaults": onnx_scorer(networks["unet16"].path),
        **engines,
    }


def _measured(sides: Mapping[str, Scorer], given: F32, repeats: int) -> dict[str, list[float]]:
    """Each side's seconds for all slices, and the machine's rates beside them."""
    batches = [given[i : i + BATCH] for i in range(0, len(given), BATCH)]
    for scorer in sides.values():
        # The last one too: a runtime prepares itself for each new shape.
        _run(scorer, [batches[0], batches[-1]])
    timers = {name: timed(partial(_run, scorer, batches)) for name, scorer in sides.items()}
    return turns({**timers, **probes(usable_cores())}, repeats, warm_up=False)


def _run(scorer: Scorer, batches: Sequence[F32]) -> None:
    for batch in batches:
        scorer(batch)


def _bound(
    module: nn.Module,
    given: F32,
    engine: Scorer,
    runtime: str,
    found: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """The least seconds for all slices, and what they are made of."""
    precision, rates = PRECISIONS.get(runtime, "f32"), rates_of(found)
    count = len(given) * operations(module, torch.from_numpy(given[:1]))
    moved = traffic(module, precision, given.nbytes + len(given) * engine(given[:1]).nbytes)
    return {
        "precision": precision,
        "operations": count,
        "bytes": moved,
        "operations_per_s": dict(rates.product),
        "bytes_per_s": rates.copy,
        "least_s": least_seconds(count, moved, rates, precision),
    }


def _loaded(path: Path, name: str) -> Runtime:
    """A file in a runtime of the engine."""
    data, threads = path.read_bytes(), usable_cores()
    if name == OnnxRuntime.name:
        return OnnxRuntime(data, path.name, "cpu", threads)
    return OpenVino(data, path.name, threads, name)


def _labels(scorer: Scorer, given: F32, manifest: Manifest) -> NDArray[np.uint8]:
    return decide(scorer(given).swapaxes(0, 1), manifest)


if __name__ == "__main__":
    sys.exit(main())
