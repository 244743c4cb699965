"""Which runtime serves a model on this machine's CPU: the same masks first, then the least time.

What a runtime rounds differently may move a boundary. Only one whose masks were compared with
ONNX Runtime's, and found the same within Dice 0.002, is taken; the model's manifest holds the
comparison. Among those the machine decides: each runs a part of a patch, once a machine.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter, IsletError
from imaging.files import write_whole
from models.manifest import Manifest
from models.store import StoredModel
from serving.engines import openvino
from serving.engines.onnx_runtime import OnnxRuntime
from serving.engines.openvino import OpenVino
from serving.engines.runtime import Runtime

Makers = dict[str, Callable[[], Runtime]]

logger = logging.getLogger("islet.engines")

# The same masks: what of the Dice may be lost.
SAME_DICE = 0.998
_TURNS = 3
_SHARE = 2


def choose(model: StoredModel, data: bytes, threads: int, wanted: str = "auto") -> Runtime:
    """The runtime for a model on the CPU.

    Args:
        model: what is loaded.
        data: its file.
        threads: of one inference.
        wanted: ``auto``, or the name of one.

    Raises:
        BadParameter: another one is wanted than this machine has or the manifest allows.
        CorruptModel: no graph that runs.
    """
    allowed = same_masks(model.manifest)
    if wanted not in ("auto", OnnxRuntime.name, *allowed):
        raise BadParameter(
            f"{model.reference} may not run on {wanted} here: it is not installed, or its masks "
            "were not found to be the same; set ISLET_RUNTIME to auto, or compare them with "
            "`islet models compare`.",
            runtime=wanted,
            model=model.reference,
        )
    makers: Makers = {n: partial(OpenVino, data, model.reference, threads, n) for n in allowed}
    makers[OnnxRuntime.name] = partial(OnnxRuntime, data, model.reference, "cpu", threads)
    if wanted == "auto" and not allowed:
        wanted = OnnxRuntime.name
    return _fastest(model, makers, threads) if wanted == "auto" else makers[wanted]()


def same_masks(manifest: Manifest) -> tuple[str, ...]:
    """The runtimes of this machine that give a model's masks as ONNX Runtime gives them."""
    same = {name for name, dice in manifest.fidelity.items() if dice >= SAME_DICE}
    # OpenVINO loads for a model that may run on it, and for no other.
    return tuple(name for name in openvino.usable() if name in same) if same else ()


def _fastest(model: StoredModel, makers: Makers, threads: int) -> Runtime:
    """By a measurement made now, or remembered from this machine."""
    known, key = _remembered(), _key(model, sorted(makers), threads)
    if known.get(key) in makers:
        return makers[known[key]]()
    given = _part_of_patch(model.manifest)
    runtimes = {OnnxRuntime.name: makers[OnnxRuntime.name]()}
    for name in makers.keys() - runtimes.keys():
        try:
            runtime = makers[name]()
            runtime(given)
            runtimes[name] = runtime
        except IsletError as error:
            logger.warning("%s does not run on %s: %s", model.reference, name, error)
    taken = _seconds(runtimes, given)
    best = min(taken, key=taken.__getitem__)
    logger.info("%s runs on %s; seconds: %s", model.reference, best, taken)
    _remember({**known, key: best})
    return runtimes[best]


def _part_of_patch(manifest: Manifest) -> NDArray[np.float32]:
    """A network input of half a patch's sides."""
    sides = [
        max(d, p // _SHARE // d * d) for p, d in zip(manifest.patch, manifest.divisor, strict=True)
    ]
    shape = (1, 1, *sides[3 - manifest.dims :])
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _seconds(runtimes: dict[str, Runtime], given: NDArray[np.float32]) -> dict[str, float]:
    """The median time of each on an input, in turns after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runtimes}
    for turn in range(_TURNS + 1):
        for name, runtime in runtimes.items():
            began = time.perf_counter()
            runtime(given)
            if turn:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def _key(model: StoredModel, names: list[str], threads: int) -> str:
    """All that the choice depends on; the machine by its name, since homes are shared."""
    versions = [f"{name}-{version(name)}" for name in ("onnxruntime", "openvino")]
    return " ".join([model.sha256, platform.node(), f"{threads} threads", *names, *versions])


def _file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "islet" / "runtimes.json"


def _remembered() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(choices: dict[str, Any]) -> None:
    """Written whole; a machine without a place for it measures again next time."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(), (json.dumps(choices, indent=1) + "\n").encode())
    except (OSError, IsletError) as error:
        logger.info("The choice of a runtime is not remembered: %s", error)
