from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import BadManifest
from models.manifest import Calibration, Cleanup, Intensity, Manifest, Provenance, Sampling
from tests.models.manifests import manifest, manifests


@given(manifests())
def test_json_and_back(made: Manifest) -> None:
    text = made.to_json()
    assert Manifest.from_json(text) == made
    assert Manifest.from_json(text).to_json() == text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_channels() -> None:
    assert manifest().channels == 3
    assert manifest(activation="sigmoid").channels == 2


TRUST = {"structure": "kidney", "offset": 0, "certainty": 1, "size": 1, "usual_ml": 300}
BAD = [
    ("schema", 2),
    ("schema", None),
    ("name", ""),
    ("name", "Tiny"),
    ("name", "../tiny"),
    ("name", ".tiny"),
    ("name", "t" * 65),
    ("name", "tiny\n"),
    ("name", 5),
    ("name", None),
    ("architecture", 3),
    ("dims", 4),
    ("dims", "3"),
    ("dims", True),
    ("patch", [16, 32]),
    ("patch", [16, 32, 0]),
    ("patch", [16.0, 32.0, 32.0]),
    ("patch", [1024, 1024, 1024]),
    ("patch", "abc"),
    ("patch", 3),
    ("patch", None),
    ("patch", ["16", "32", "32"]),
    ("divisor", [5, 1, 1]),
    ("divisor", [0, 1, 1]),
    ("divisor", [1, 1]),
    ("divisor", [1.5, 1, 1]),
    ("overlap", 1),
    ("overlap", -0.1),
    ("overlap", float("nan")),
    ("overlap", "0.5"),
    ("edge_mm", -1),
    ("edge_mm", 51),
    ("edge_mm", float("nan")),
    ("edge_mm", 10**309),
    ("activation", "relu"),
    ("activation", []),
    ("outputs", []),
    ("outputs", ["heart"]),
    ("outputs", ["kidney", "kidney"]),
    ("outputs", "kidney"),
    ("outputs", [["kidney"]]),
    ("cleanup", [{"structure": "heart"}]),
    ("cleanup", [{"structure": "kidney", "keep_largest": -1}]),
    ("cleanup", [{"structure": "kidney", "keep_largest": 1.5}]),
    ("cleanup", [{"structure": "kidney", "least_part": 1.5}]),
    ("cleanup", [{"structure": "kidney", "min_ml": -1}]),
    ("cleanup", [{"structure": "kidney", "min_ml": float("inf")}]),
    ("cleanup", [{"structure": "kidney", "colour": "red"}]),
    ("cleanup", [{"keep_largest": 1}]),
    ("cleanup", None),
    ("cleanup", [3]),
    ("calibration", None),
    ("calibration", []),
    ("calibration", {"temperature": 0}),
    ("calibration", {"temperature": "1"}),
    ("calibration", {"trust": [{"structure": "kidney"}]}),
    ("calibration", {"trust": [3]}),
    ("calibration", {"trust": [TRUST | {"structure": "heart"}]}),
    ("calibration", {"trust": [TRUST | {"certainty": -0.1}]}),
    ("calibration", {"trust": [TRUST | {"size": -0.1}]}),
    ("calibration", {"trust": [TRUST | {"usual_ml": 0}]}),
    ("calibration", {"trust": [TRUST | {"least": 1.1}]}),
    ("calibration", {"trust": [TRUST | {"offset": float("nan")}]}),
    ("calibration", {"trust": [TRUST | {"surprise": 1}]}),
    ("calibration", {"trust": [TRUST, TRUST]}),
    ("calibration", {"fitted": [1]}),
    ("sampling", {"spacing_mm": [1, 1]}),
    ("sampling", {"spacing_mm": [1, 1, 0.01]}),
    ("sampling", {"spacing_mm": [1, 1, 21]}),
    ("sampling", {"spacing_mm": [1, 1, float("nan")]}),
    ("sampling", {"spacing_mm": [1, 1, "1"]}),
    ("sampling", {"spacing_mm": [1, None, None], "size": [64, None, None]}),
    ("sampling", {"spacing_mm": [None, None, None], "size": [7, None, None]}),
    ("sampling", {"spacing_mm": [None, None, None], "size": [64.5, None, None]}),
    ("sampling", {"spacing_mm": [None, None, None], "size": [64, None]}),
    ("sampling", {"spacing_mm": [1, 1, 1], "order": 3}),
    ("sampling", {}),
    ("sampling", None),
    ("sampling", [1, 1, 1]),
    ("intensity", {"window_hu": [300, -200]}),
    ("intensity", {"window_hu": [-200]}),
    ("intensity", {"window_hu": [float("-inf"), 300]}),
    ("intensity", {"window_hu": [-200, "300"]}),
    ("intensity", {"window_hu": [-200, 300], "scale": "z"}),
    ("intensity", {"window_hu": [-200, 300], "scale": None}),
    ("provenance", {"recipe": "x", "scope": "world"}),
    ("provenance", {"recipe": None}),
    ("provenance", {"recipe": "x", "round": "1"}),
    ("provenance", {"recipe": "x", "data": [3]}),
    ("provenance", {"recipe": "x", "software": {"torch": 2}}),
    ("provenance", {"recipe": "x", "seed": 10**309}),
    ("provenance", {}),
    ("scores", [1]),
    ("scores", {"dice": float("nan")}),
    ("licence", None),
    ("intended_use", 1),
    ("weights_sha256", 7),
    ("surprise", 1),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{n}={v}"[:60] for n, v in BAD])
def test_a_field_outside_its_range_is_refused(name: str, value: Any) -> None:
    raw = json.loads(manifest().to_json())
    raw[name] = value
    with pytest.raises(BadManifest) as caught:
        Manifest.from_json(json.dumps(raw))
    assert len(caught.value.message) < 400


REQUIRED = [
    f.name
    for f in dataclasses.fields(Manifest)
    if f.name in json.loads(manifest().to_json())
    and f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_refused(name: str) -> None:
    raw = json.loads(manifest().to_json())
    del raw[name]
    with pytest.raises(BadManifest, match=name):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "null", "3", "[]", '"x"', "[" * 100_000, '{"a":1e999}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BadManifest):
        Manifest.from_json(text)


@given(st.text(max_size=50))
def test_any_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadManifest):
        Manifest.from_json(text)


def test_a_manifest_from_before_calibrations_trusts_nothing_and_drops_nothing() -> None:
    raw = json.loads(manifest().to_json())
    del raw["calibration"]
    assert Manifest.from_json(json.dumps(raw)).calibration == Calibration()
    assert Calibration().trust == ()


def test_a_2d_model_has_flat_patches() -> None:
    assert manifest(dims=2, patch=(1, 32, 32)).dims == 2
    with pytest.raises(BadManifest, match="Z = 1, not 16"):
        manifest(dims=2)


def test_the_parts_check_themselves() -> None:
    with pytest.raises(BadManifest):
        Sampling((1.0, 1.0))
    with pytest.raises(BadManifest):
        Intensity((5.0, 5.0))
    with pytest.raises(BadManifest):
        Cleanup("kidney", keep_largest=-1)
    with pytest.raises(BadManifest):
        Provenance("x", scope="")


def test_lists_become_tuples() -> None:
    made = manifest(patch=[16, 32, 32], outputs=["kidney"], sampling=Sampling([1, 1, 1]))
    assert made == manifest(patch=(16, 32, 32), outputs=("kidney",), sampling=Sampling((1, 1, 1)))
    assert isinstance(made.outputs, tuple)
