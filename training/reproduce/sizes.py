"""Parameters, bytes and CPU time of MoNet and its baselines (its Tables 2 and 3)."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from models.architectures import build
from models.architectures.keras import keras_count
from models.export import export
from training.package import manifest_of
from training.recipes import recipe as named_recipe
from training.reproduce.tables import markdown

# Seconds for 150 slices, parameters and megabytes, as published.
_PAPER: Mapping[str, tuple[str, str, str, str]] = {
    "monet": ("MoNet", "14.88", "403,556", "1.8"),
    "monet-unet16": ("U-Net-16", "7.03", "1,946,705", "7.6"),
    "monet-unet64": ("U-Net-64", "45.34", "31,054,145", "118.6"),
    "monet-attention-unet": ("Attention U-Net", "53.30", "31,753,349", "121.3"),
}
_SLICES, _SIZE, _TIMED, _REPEATS = 150, 256, 10, 3


def sizes_and_times() -> str:
    """A table of parameters, bytes and CPU time at 256x256 of all four nets, timed in turns."""
    sessions, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for net in _PAPER:
            recipe = named_recipe(net)
            path = Path(folder) / f"{net}.onnx"
            export(build(recipe.architecture), manifest_of(recipe), path)
            sessions[net] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    times = _timed(sessions)
    for net, (name, seconds, parameters, megabytes) in _PAPER.items():
        count, size = _measured(net)
        ours = f"{times[net]:.1f}"
        rows.append([name, parameters, f"{count:,}", megabytes, f"{size:.1f}", seconds, ours])
    header = ["", "parameters, paper", "ours", "MB, paper", "ours", "seconds, paper", "ours"]
    note = (
        f"CPU seconds for {_SLICES} slices of {_SIZE}x{_SIZE} in ONNX Runtime on this machine, one "
        f"slice at a time, from {_REPEATS} turns of {_TIMED} slices each."
    )
    return f"{note}\n\n{markdown(header, rows)}"


def _measured(net: str) -> tuple[int, float]:
    """Parameters as Keras counts them, and megabytes of the weights as torch writes them."""
    network = build(named_recipe(net).architecture)
    weights = io.BytesIO()
    torch.save(network.state_dict(), weights)
    return sum(keras_count(network)), len(weights.getvalue()) / 1e6


def _timed(sessions: Mapping[str, onnxruntime.InferenceSession]) -> dict[str, float]:
    slices = np.random.default_rng(0).standard_normal((1, 1, _SIZE, _SIZE)).astype(np.float32)
    taken: dict[str, list[float]] = {net: [] for net in sessions}
    for _ in range(_REPEATS):
        for net, session in sessions.items():
            name = session.get_inputs()[0].name
            start = time.perf_counter()
            for _ in range(_TIMED):
                session.run(None, {name: slices})
            taken[net].append(time.perf_counter() - start)
    return {net: statistics.median(t) * _SLICES / _TIMED for net, t in taken.items()}
