"""The same CT gives the same bytes: run after run, with any threads, batch and runtime.

    python -m benchmarks.trials.numerics [CT ...] [--model NAME] [--repeats N]

Where bytes differ, what they may differ by is stated: the mean Dice of the structures that either
finds, against one thread of ONNX Runtime. The window is the manifest's own and no setting: half of
it is another input, and gives other masks. Without a CT a phantom is made.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.trials.row import Row
from benchmarks.trials.show import show
from imaging.read import read_volume
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models import architectures
from models.manifest import Provenance
from models.predict import network_input, predict
from models.scorer import Scorer
from models.store import Store, StoredModel, default_store
from serving.engines import Engines
from serving.engines.engine import Engine
from serving.engines.openvino import usable
from serving.options import Options
from serving.segment import files, segment
from training.package import export_recipe, torch_scorer
from training.phantoms import make_phantom
from training.phantoms.styles import STYLES
from training.pretraining import start_from
from training.recipes import recipe
from training.trainer import initial_network

THREADS = (1, 2, 3, 4)
BATCHES = (1, 2, 3)
# Least mean Dice to the reference: of a runtime in single precision, in bf16.
SINGLE_DICE, HALF_DICE = 0.999, 0.99
# Of the same patch's scores in another batch, as a part of the largest score.
_BATCH_BOUND = 1e-5
_PHANTOM = ((96, 128, 160), (2.5, 2.5, 2.5))
_SEED = 8
_PLAIN = "onnxruntime"


def trial(
    cts: Sequence[Path] = (), model: str = "starter", repeats: int = 20, torch: bool = True
) -> Sequence[Row]:
    """Every comparison on every CT.

    Args:
        cts: files or folders; a phantom where there are none.
        model: a reference.
        repeats: runs in one process.
        torch: compare with the network in torch, built from its recipe.
    """
    return list(rows(cts, model, repeats, torch))


def rows(cts: Sequence[Path], model: str, repeats: int, torch: bool) -> Iterator[Row]:
    """The rows of :func:`trial`, each once it is there."""
    with tempfile.TemporaryDirectory() as name:
        found = [*cts] or [_phantom(Path(name))]
        stored = default_store().resolve(model)
        yield _again(found, model, repeats)
        yield _threads(found, model)
        slices = stored if stored.manifest.dims == 2 else _of_slices(Path(name))
        yield _batches(found[0], slices)
        volumes = [read_volume(ct) for ct in found]
        yield _runtimes(volumes, stored, torch)


def _again(cts: Sequence[Path], model: str, repeats: int) -> Row:
    """The files of one process, run after run: nothing drifts."""
    engines = Engines(default_store(), 2)
    same = 0
    for ct in cts:
        first = _files(ct, model, engines)
        same += 1 + sum(_files(ct, model, engines) == first for _ in range(repeats - 1))
    tried = repeats * len(cts)
    return Row("the same CT again", tried, same, tried - same, f"{same} of {tried} the same bytes")


def _threads(cts: Sequence[Path], model: str) -> Row:
    """The files with so many threads, by each runtime that serves the model."""
    tried = same = 0
    runtimes = _runtimes_of(default_store().resolve(model))
    for ct in cts:
        for runtime in runtimes:
            made = [
                _files(ct, model, Engines(default_store(), n, runtime=runtime)) for n in THREADS
            ]
            tried += len(made)
            same += sum(one == made[0] for one in made)
    counts = ", ".join(map(str, THREADS))
    figure = f"{same} of {tried} the same bytes ({counts} threads, {', '.join(runtimes)})"
    return Row("another number of threads", tried, same, tried - same, figure)


def _batches(ct: Path, stored: StoredModel) -> Row:
    """Scores of one slice alone and in batches with others."""
    engine = Engine(stored, "cpu", 2, _PLAIN)
    patch = _patch(read_volume(ct), stored)
    alone = np.array(engine(patch))
    worst, equal, survived = 0.0, 0, 0
    for size in BATCHES:
        batch = np.concatenate([patch, *(patch * (0.5 / n) for n in range(1, size))])
        found = np.asarray(engine(batch))[:1]
        apart = float(np.abs(found - alone).max() / np.abs(alone).max())
        worst = max(worst, apart)
        equal += found.tobytes() == alone.tobytes()
        survived += apart <= _BATCH_BOUND
    tried = len(BATCHES)
    figure = (
        f"{equal} of {tried} the same bytes, apart by {worst:.1e} of the largest score at most "
        f"(slices of {stored.manifest.name}; patches of a volume go alone)"
    )
    return Row("another batch", tried, survived, tried - survived, figure)


def _of_slices(folder: Path) -> StoredModel:
    """MoNet with the weights that a training begins with, in a store of its own.

    Patches of a 3D model go through its network one at a time; slices do not.
    """
    made_by, path = recipe("monet"), folder / "monet.onnx"
    export_recipe(initial_network(made_by), made_by, Provenance("monet"), path)
    return Store(folder / "store", behind=()).publish(path)


def _runtimes(volumes: Sequence[Volume], stored: StoredModel, torch: bool) -> Row:
    """Labels by every runtime, and by the network in torch, against ONNX Runtime's."""
    scorers: dict[str, tuple[Scorer, float]] = {
        name: (Engine(stored, "cpu", 2, name), HALF_DICE if "bf16" in name else SINGLE_DICE)
        for name in _runtimes_of(stored)
        if name != _PLAIN
    }
    if torch:
        scorers["torch"] = (_in_torch(stored), SINGLE_DICE)
    plain = Engine(stored, "cpu", 1, _PLAIN)
    least: dict[str, float] = dict.fromkeys(scorers, 1.0)
    survived = 0
    for volume in volumes:
        expected = _predicted(volume, stored, plain)
        for name, (scorer, bound) in scorers.items():
            made = predict(volume, stored.manifest, scorer, finder=plain.finder).labels.array
            dice = mean_dice(made, expected)
            least[name] = min(least[name], dice)
            survived += dice >= bound
    tried = len(volumes) * len(scorers)
    told = ", ".join(f"{name} {dice:.5f}" for name, dice in least.items())
    return Row("another runtime", tried, survived, tried - survived, f"least mean Dice: {told}")


def mean_dice(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Mean over the values that either holds; 1 where both hold none."""
    scores = []
    for value in np.union1d(found, expected):
        if value:
            a, b = found == value, expected == value
            scores.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(scores)) if scores else 1.0


def _files(ct: Path, model: str, engines: Engines) -> Mapping[str, bytes]:
    """All files of a result but the report, which holds seconds."""
    made = segment(ct, Options(model=model, device="cpu"), engines)
    return {name: data for name, data in files(made) if name != "report.json"}


def _predicted(volume: Volume, stored: StoredModel, engine: Engine) -> NDArray[np.uint8]:
    return predict(volume, stored.manifest, engine, finder=engine.finder).labels.array


def _patch(volume: Volume, stored: StoredModel) -> NDArray[np.float32]:
    """The middle of what the network sees, one patch: (1, 1, ...)."""
    image, _ = network_input(volume, stored.manifest)
    sizes = stored.manifest.patch
    short = [(0, max(0, p - n)) for p, n in zip(sizes, image.shape, strict=True)]
    image = np.pad(image, short)
    starts = [(n - p) // 2 for p, n in zip(sizes, image.shape, strict=True)]
    cut = image[tuple(slice(s, s + p) for s, p in zip(starts, sizes, strict=True))]
    return np.ascontiguousarray(cut.reshape(1, 1, *sizes[3 - stored.manifest.dims :]))


def _in_torch(stored: StoredModel) -> Scorer:
    """The network that the file was exported from, with the file's weights."""
    made_by = recipe(stored.manifest.provenance.recipe)
    network = architectures.build(made_by.architecture, made_by.channels, **made_by.options)
    network.load_state_dict(start_from(made_by, stored.path).state)
    return torch_scorer(network.eval())


def _runtimes_of(stored: StoredModel) -> tuple[str, ...]:
    """Those that the model's manifest says to give the same masks."""
    return (_PLAIN, *(name for name in usable() if name in stored.manifest.fidelity))


def _phantom(folder: Path) -> Path:
    shape, spacing = _PHANTOM
    made = make_phantom(_SEED, STYLES["a-thin-portal"], shape=shape, spacing_mm=spacing)
    path = folder / "phantom.nii.gz"
    write_nifti(made.volume, path)
    return path


def main() -> int:
    """Try, print; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cts", type=Path, nargs="*", metavar="CT")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    found = rows(args.cts, args.model, args.repeats, torch=True)
    return max(show([row]) for row in found)


if __name__ == "__main__":
    sys.exit(main())
