"""Codecs: bounds of the error, feedback that loses nothing, and the size of MoNet on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from federation.codec import FEWEST, SCALES, decode, encode, encode_with_feedback
from federation.job import CODECS
from federation.message import pack, unpack
from imaging.errors import BadParameter, UpdateRefused
from models.architectures import build

Update = dict[str, NDArray[np.float32]]
FINITE = st.floats(-(2.0**99), 2.0**99, width=32)


def update(seed: int, scale: float = 1e-3) -> Update:
    rng = np.random.default_rng(seed)
    shapes = {"conv.weight": (16, 8, 3, 3), "conv.bias": (16,), "up.weight": (64, 32), "head": ()}
    return {
        name: np.asarray(rng.normal(0, scale, shape), np.float32) for name, shape in shapes.items()
    }


def weight(values: Any) -> NDArray[np.float32]:
    """A tensor large enough to be coded: rows of FEWEST values, zero but for the first ones."""
    rows = np.zeros((len(values), FEWEST), np.float32)
    rows[:, : len(values[0])] = values
    return rows


def test_int8_by_hand() -> None:
    encoded = encode({"w": weight([[1.27, -0.01, 0.004, 0.006], [0, 0, 0, 0]])}, "int8")
    assert encoded["w"].dtype == np.int8
    assert encoded["w"][0, :4].tolist() == [127, -1, 0, 1]
    assert not encoded["w"][1].any()
    assert encoded[SCALES] == pytest.approx([0.01, 0])
    assert decode(encoded)["w"][0, :4] == pytest.approx([1.27, -0.01, 0, 0.01])


def test_fp16_by_hand() -> None:
    # 0.75 is 1.5 * 2**-1; the scale that takes it below 2**15 is 2**-15.
    encoded = encode({"w": weight([[0.75, 2**-20]])}, "fp16")
    assert encoded["w"].dtype == np.float16
    assert encoded[SCALES].tolist() == [2**-15]
    assert encoded["w"][0, :2].tolist() == [0.75 * 2**15, 2**-5]


def test_what_is_small_stays_as_it_is() -> None:
    values = update(1)
    for codec in CODECS:
        encoded = encode(values, codec)
        for name in ("conv.bias", "head"):
            assert encoded[name].dtype == np.float32
            assert np.array_equal(decode(encoded)[name], values[name])
    assert encode({"long": np.ones(FEWEST, np.float32)}, "int8")["long"].dtype == np.float32


def test_fp32_changes_nothing() -> None:
    values = update(2)
    found = decode(encode(values, "fp32"))
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[name], values[name]) for name in values)


@given(arrays(np.float32, (4, 6), elements=FINITE))
def test_errors_stay_within_half_a_step(values: NDArray[np.float32]) -> None:
    full = weight(values)
    largest = np.abs(full).max(axis=1, keepdims=True).astype(np.float64)
    int8 = np.abs(decode(encode({"w": full}, "int8"))["w"].astype(np.float64) - full)
    # A scale below float32's smallest number is rounded itself, to a step of 2**-149.
    assert (int8 <= largest / 127 * 0.5001 + 64 * 2.0**-149).all()
    fp16 = np.abs(decode(encode({"w": full}, "fp16"))["w"].astype(np.float64) - full)
    smallest = largest.max() * 2.0**-38 + 2.0**-149
    assert (fp16 <= np.abs(full.astype(np.float64)) * 2.0**-11 + smallest).all()


@given(arrays(np.float32, (4, 6), elements=FINITE), st.sampled_from(CODECS))
def test_the_same_update_gives_the_same_bytes(values: NDArray[np.float32], codec: str) -> None:
    first = pack({}, encode({"w": weight(values), "b": values}, codec))
    second = pack({}, encode({"b": values.copy(), "w": weight(values)}, codec))
    assert first == second
    read = decode(unpack(first)[1])
    assert np.array_equal(read["b"], values)


@pytest.mark.parametrize("codec", CODECS)
def test_feedback_loses_nothing_over_rounds(codec: str) -> None:
    residual: Update = {}
    sent = {name: np.zeros(a.shape) for name, a in update(0).items()}
    wanted = {name: np.zeros(a.shape) for name, a in update(0).items()}
    plain = {name: np.zeros(a.shape) for name, a in update(0).items()}
    for seed in range(20):
        values = update(seed)
        encoded, decoded, residual = encode_with_feedback(values, residual, codec)
        read = decode(unpack(pack({}, encoded))[1])
        without = decode(encode(values, codec))
        for name in values:
            assert np.array_equal(read[name], decoded[name])
            sent[name] += decoded[name]
            wanted[name] += values[name]
            plain[name] += without[name]
    for name in wanted:
        assert sent[name] + residual[name] == pytest.approx(wanted[name], abs=1e-8)
    if codec != "fp32":
        lost = np.abs(plain["conv.weight"] - wanted["conv.weight"]).mean()
        left = np.abs(residual["conv.weight"]).mean()
        assert left < lost / 2


def test_without_a_step_large_enough_only_feedback_moves_a_weight() -> None:
    step = weight([[1.0, 0.003]])  # 0.003 is below half a step of 1/127
    residual: Update = {}
    moved = 0.0
    for _ in range(10):
        assert decode(encode({"w": step}, "int8"))["w"][0, 1] == 0
        _, decoded, residual = encode_with_feedback({"w": step}, residual, "int8")
        moved += float(decoded["w"][0, 1])
    assert moved == pytest.approx(0.03, abs=0.5 / 127)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e30])
def test_values_that_spoil_a_mean_are_not_sent(codec: str, value: float) -> None:
    with pytest.raises(UpdateRefused, match=r"'up\.weight'.*(nan|inf|2)"):
        encode({"a": np.zeros(2, np.float32), "up.weight": weight([[0.0, value]])}, codec)


def encoded_with(codes: NDArray[Any], scales: Any) -> dict[str, NDArray[Any]]:
    return {"w": codes, SCALES: np.asarray(scales, np.float32)}


@pytest.mark.parametrize(
    "encoded",
    [
        encoded_with(np.array([1, np.nan], np.float32), []),
        encoded_with(np.array([np.inf], np.float16), [1]),
        encoded_with(np.array([1], np.float16), [np.nan]),
        encoded_with(np.array([1], np.float16), [2e30]),
        encoded_with(np.array([[0]], np.int8), [np.inf]),
        encoded_with(np.array([[127]], np.int8), [3e38]),
        encoded_with(np.array([1], np.int64), [1]),
        encoded_with(np.array(1, np.int8), [1]),
    ],
)
def test_codes_that_spoil_a_mean_are_not_read(encoded: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(UpdateRefused, match="'w'"):
        decode(encoded)


@pytest.mark.parametrize("scales", [[], [1], [1, 1, 1], [[1, 1]]])
def test_scales_that_do_not_fit_are_refused(scales: Any) -> None:
    with pytest.raises(UpdateRefused, match="need 2 scales"):
        decode(encoded_with(np.zeros((2, 3), np.int8), scales))
    with pytest.raises(UpdateRefused, match="float64"):
        decode({"w": np.zeros((2, 3), np.int8), SCALES: np.ones(2)})
    with pytest.raises(UpdateRefused, match="@scales"):
        decode({"w": np.zeros(1, np.float32)})


def test_wrong_input_is_refused() -> None:
    with pytest.raises(BadParameter, match="'int4'"):
        encode({}, "int4")
    with pytest.raises(UpdateRefused, match="@scales"):
        encode({SCALES: np.zeros(1, np.float32)}, "fp32")
    with pytest.raises(UpdateRefused, match="residual"):
        encode_with_feedback(update(0), {"other": np.zeros(1, np.float32)}, "int8")
    with pytest.raises(UpdateRefused, match=r"1\.6"):
        encode_with_feedback({"w": weight([[8e29]])}, {"w": weight([[8e29]])}, "int8")


def test_an_update_without_tensors() -> None:
    assert decode(encode({}, "int8")) == {}


def monet_update() -> Update:
    """Differences of MoNet's shape, as large as those of some steps of training."""
    rng = np.random.default_rng(0)
    state = build("monet").state_dict()
    return {
        name: np.asarray(rng.normal(0, 1e-3, tensor.shape), np.float32)
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def test_monet_on_the_wire() -> None:
    values = monet_update()
    assert sum(a.size for a in values.values()) == 403_556
    header = {"job": "x" * 36, "site": "c1", "round": 300, "facts": {"cases": 200, "loss": 0.5}}
    sizes = {codec: len(pack(header, encode(values, codec))) for codec in CODECS}
    print(sizes)
    assert sizes["int8"] <= 450_000
    assert sizes["fp16"] <= 850_000
    assert sizes["fp32"] <= 1_650_000
    decoded = decode(encode(values, "int8"))
    wrong = sum(float(np.square(decoded[n] - a).sum()) for n, a in values.items())
    right = sum(float(np.square(a).sum()) for a in values.values())
    assert (wrong / right) ** 0.5 < 0.01
