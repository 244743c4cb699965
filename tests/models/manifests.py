"""A manifest to vary, and one of any kind."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from models.labels import BY_NAME
from models.manifest import (
    Calibration,
    Cleanup,
    Intensity,
    Manifest,
    Provenance,
    Sampling,
    Trust,
)


def manifest(**fields: Any) -> Manifest:
    """A valid 3D manifest of three classes, some of whose fields are others."""
    base: dict[str, Any] = {
        "name": "tiny",
        "architecture": "tiny",
        "sampling": Sampling((None, None, None)),
        "intensity": Intensity((-200.0, 300.0)),
        "dims": 3,
        "patch": (16, 32, 32),
        "outputs": ("pancreas", "kidney"),
        "provenance": Provenance("test"),
    }
    return Manifest(**{**base, **fields})


_words = st.text(max_size=20)
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _numbers | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=5,
)


def _axis() -> st.SearchStrategy[tuple[float | None, int | None]]:
    return st.one_of(
        st.just((None, None)),
        st.tuples(st.floats(0.1, 20), st.none()),
        st.tuples(st.none(), st.integers(8, 1024)),
    )


def _trust(name: str) -> st.SearchStrategy[Trust]:
    slopes = st.floats(0, 100)
    return st.builds(
        Trust, st.just(name), _numbers, slopes, slopes, st.floats(1e-3, 1e4), st.floats(0, 1)
    )


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    """Any valid calibration."""
    names = draw(st.lists(st.sampled_from(sorted(BY_NAME)), unique=True, max_size=3))
    trust = tuple(draw(_trust(name)) for name in names)
    fitted = draw(st.dictionaries(_words, _json, max_size=2))
    return Calibration(draw(st.floats(0.01, 100)), trust, fitted)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any valid manifest."""
    axes = draw(st.tuples(_axis(), _axis(), _axis()))
    low = draw(st.floats(-2000, 2000))
    dims = draw(st.sampled_from([2, 3]))
    divisor = [draw(st.sampled_from([1, 2, 8])) for _ in range(3)]
    patch = [d * draw(st.integers(1, 16)) for d in divisor]
    if dims == 2:
        divisor[0] = patch[0] = 1
    names = st.sampled_from(sorted(BY_NAME))
    return Manifest(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
        architecture=draw(_words),
        sampling=Sampling(tuple(a for a, _ in axes), tuple(b for _, b in axes)),
        intensity=Intensity(
            (low, low + draw(st.floats(1, 3000))), draw(st.sampled_from(["unit", "signed", "scan"]))
        ),
        dims=dims,
        patch=tuple(patch),
        divisor=tuple(divisor),
        overlap=draw(st.floats(0, 1, exclude_max=True)),
        edge_mm=draw(st.floats(0, 50)),
        activation=draw(st.sampled_from(["softmax", "sigmoid"])),
        outputs=tuple(draw(st.lists(names, min_size=1, unique=True))),
        cleanup=tuple(
            draw(
                st.lists(
                    st.builds(Cleanup, names, st.integers(0, 5), st.floats(0, 100)), max_size=3
                )
            )
        ),
        provenance=draw(
            st.builds(
                Provenance,
                recipe=_words,
                scope=st.sampled_from(["global", "local", "central"]),
                site=st.none() | _words,
                round=st.none() | st.integers(),
                data=st.lists(st.dictionaries(_words, _json, max_size=2), max_size=2).map(tuple),
                software=st.dictionaries(_words, _words, max_size=2),
            )
        ),
        scores=draw(st.dictionaries(_words, _json, max_size=3)),
        weights_sha256=draw(st.none() | _words),
        calibration=draw(calibrations()),
    )
