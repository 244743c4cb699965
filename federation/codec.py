"""How an update is written for the wire: fp32 as it is, fp16, or int8, with error feedback.

Rounding is to the nearest, so the same update always gives the same bytes. What rounding lost is
not lost to the training: the site keeps it and adds it to its next update (Seide et al. 2014,
"1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes SignSGD"). With
it the rounding needs no random numbers to be right in the mean.

An encoded update has the names of the update, each with its codes, and beside them one array
:data:`SCALES` of float32 with the factors of all codes in the order of the names. The dtype of the
codes says how to read them, so one update may hold all three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.job import CODECS
from imaging.errors import BadParameter, UpdateRefused

SCALES = "@scales"
LARGEST = 1e30
"""No weight of a sound network changes by more; below it no codec overflows float32."""
FEWEST = 1024
"""Smaller tensors, and all with one axis, travel as float32 under every codec: biases, norm layers
and their statistics, a fiftieth of a network. A variance must not be rounded below zero."""

Tensors = Mapping[str, NDArray[np.float32]]


def encode(arrays: Tensors, codec: str) -> dict[str, NDArray[Any]]:
    """An update as it travels.

    Under fp16 a tensor is divided by the power of two that takes its largest value just below
    float16's range. Under int8 every index of the first axis of a weight has its own scale, by
    which its largest value becomes 127.

    Args:
        arrays: float32 tensors of any shapes.
        codec: one of ``federation.job.CODECS``.

    Raises:
        UpdateRefused: a value is not finite or beyond :data:`LARGEST`; names the tensor.
        BadParameter: no such codec.
    """
    if codec not in CODECS:
        raise BadParameter(f"codec must be one of {', '.join(CODECS)}, not {codec!r}.")
    if SCALES in arrays:
        raise UpdateRefused(f"{SCALES!r} is no name of a tensor.")
    encoded: dict[str, NDArray[Any]] = {}
    scales: list[NDArray[np.float32]] = []
    for name in sorted(arrays):
        values = np.asarray(arrays[name], np.float32)
        _check(name, values)
        codes, scale = _encoded(values, codec)
        encoded[name] = codes
        scales.append(scale)
    return encoded | {SCALES: np.concatenate([*scales, np.empty(0, np.float32)])}


def decode(encoded: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The update of :func:`encode`, rounded as it was; the dtypes say by which codec.

    Raises:
        UpdateRefused: codes of another dtype, scales that do not fit them, or a value that is not
            finite or beyond :data:`LARGEST`; names the tensor.
    """
    if SCALES not in encoded:
        raise UpdateRefused(f"The update has no {SCALES!r}.")
    names = sorted(encoded.keys() - {SCALES})
    scales = encoded[SCALES]
    needed = {name: _count(name, encoded[name]) for name in names}
    if scales.dtype != np.float32 or scales.shape != (sum(needed.values()),):
        raise UpdateRefused(
            f"The codes need {sum(needed.values())} scales of float32, not {scales.dtype} of shape "
            f"{scales.shape}."
        )
    decoded = {}
    start = 0
    for name in names:
        factors = scales[start : start + needed[name]]
        start += needed[name]
        decoded[name] = _decoded(encoded[name], factors)
        _check(name, decoded[name])
    return decoded


def encode_with_feedback(
    arrays: Tensors, residual: Tensors, codec: str
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """An update as it travels, with what earlier roundings lost added to it.

    Args:
        arrays: float32 tensors of any shapes.
        residual: what the last call of this site left; empty in the first round.
        codec: one of ``federation.job.CODECS``.

    Returns:
        What travels, the update that the server will read from it, and the residual to keep.

    Raises:
        UpdateRefused: a value is not finite or too large, or the residual is another network's.
    """
    if residual and {n: a.shape for n, a in residual.items()} != {
        n: a.shape for n, a in arrays.items()
    }:
        raise UpdateRefused("The residual has other tensors than the update; begin with none.")
    wanted = {
        name: values + residual[name] if residual else np.asarray(values, np.float32)
        for name, values in arrays.items()
    }
    encoded = encode(wanted, codec)
    decoded = decode(encoded)
    return encoded, decoded, {name: wanted[name] - decoded[name] for name in wanted}


def _encoded(values: NDArray[np.float32], codec: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Codes of one tensor, and its scales."""
    if codec == "fp32" or values.ndim < 2 or values.size < FEWEST:
        return values, np.empty(0, np.float32)
    if codec == "fp16":
        _, exponent = np.frexp(np.abs(values).max())
        # 2**-126 is the smallest scale whose inverse float32 still has.
        scale = np.float32(math.ldexp(1, max(int(exponent) - 15, -126)))
        return (values / scale).astype(np.float16), scale.reshape(1)
    rows = values.reshape(len(values), -1)
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
    codes = np.clip(np.rint(rows / divisors), -127, 127).astype(np.int8)
    return codes.reshape(values.shape), scales


def _count(name: str, codes: NDArray[Any]) -> int:
    """How many scales the codes of a tensor have."""
    if codes.dtype == np.float32:
        return 0
    if codes.dtype == np.float16:
        return 1
    if codes.dtype == np.int8 and codes.ndim > 0:
        return len(codes)
    raise UpdateRefused(f"The codes of {name!r} are {codes.dtype} of shape {codes.shape}.")


def _decoded(codes: NDArray[Any], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    if codes.dtype == np.float32:
        return codes
    factors = scales.reshape(-1, *[1] * (codes.ndim - 1)) if codes.dtype == np.int8 else scales[0]
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused by its name
        return np.asarray(codes.astype(np.float32) * factors, np.float32)


def _check(name: str, values: NDArray[np.float32]) -> None:
    """Refuse what would spoil a mean."""
    largest = float(np.abs(values).max(initial=0))  # NaN wins over every number
    if not largest <= LARGEST:
        raise UpdateRefused(
            f"{name!r} has the value {largest}; a sound one is below {LARGEST:g}. Look at the "
            "loss of this site's training."
        )
