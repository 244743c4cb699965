"""Prediction: the same masks wherever and however a CT is stored, in bounded memory."""

from __future__ import annotations

import tracemalloc
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.errors import Cancelled, CorruptModel
from imaging.geometry import Geometry
from imaging.resample import resample_linear, resample_nearest
from imaging.volume import Volume
from models.labels import BY_NAME
from models.manifest import Cleanup, Intensity, Sampling
from models.postprocess import decide
from models.predict import grid_scores, label_grid, predict
from models.tiling import tile, weights
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, origins, rotation, stored_as
from tests.models.scenes import (
    HU,
    OUTPUTS,
    WINDOW,
    by_edge,
    by_tissue,
    deep_manifest,
    dice,
    flat_manifest,
    scene,
)

KINDS = {
    "3D": deep_manifest(),
    "2D": flat_manifest(),
    "3D, coarse": deep_manifest(sampling=Sampling((5.0, 3.0, 3.0))),
    "3D, fine": deep_manifest(sampling=Sampling((1.25, 0.7, 0.7)), patch=(48, 48, 48)),
    "3D, own voxels": deep_manifest(sampling=Sampling((None, None, None))),
    "3D, edges by the CT": deep_manifest(sampling=Sampling((5.0, 3.0, 3.0)), edge_mm=4.0),
    "2D, by size": flat_manifest(
        sampling=Sampling((None, None, None), (None, 64, 64)),
        intensity=Intensity(WINDOW, "scan"),
        patch=(1, 64, 64),
    ),
    "2D, sigmoid, cleaned": flat_manifest(
        activation="sigmoid", cleanup=(Cleanup("kidney", keep_largest=1), Cleanup("liver", 1, 0.1))
    ),
}
TRUTH = sum(
    (BY_NAME[name].value * (scene().array == HU[name]).astype(np.uint8) for name in OUTPUTS),
    np.zeros(scene().array.shape, np.uint8),
)


@pytest.mark.parametrize("scorer", [by_tissue, by_edge])
@pytest.mark.parametrize("kind", KINDS)
def test_every_storage_order_gives_the_same_masks(kind: str, scorer) -> None:
    made = KINDS[kind]
    if scorer is by_edge and made.activation == "sigmoid":
        made = flat_manifest(cleanup=made.cleanup)
    volume = scene()
    once = predict(volume, made, scorer(made)).labels
    assert len(np.unique(once.array)) == 4
    for order in STORAGE_ORDERS:
        stored = stored_as(volume, order)
        labels = predict(stored, made, scorer(made)).labels
        assert labels.geometry is stored.geometry
        np.testing.assert_array_equal(labels.array, stored_as(once, order).array)


@given(
    st.sampled_from(STORAGE_ORDERS),
    origins,
    st.tuples(*[st.floats(0.8, 4)] * 3),
    st.tuples(*[st.floats(-20, 20)] * 3),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from([by_tissue, by_edge]),
)
@settings(max_examples=40)
def test_any_place_spacing_and_tilt_gives_the_same_masks(
    order, origin, spacing, tilt, kind, scorer
) -> None:
    made = KINDS[kind]
    if made.activation == "sigmoid":
        scorer = by_tissue
    level = scene((10, 20, 18), spacing, origin)
    turned = Geometry(level.geometry.shape, spacing, origin, rotation(*tilt) @ CANONICAL)
    for volume in (level, Volume(level.array, turned)):
        once = predict(volume, made, scorer(made)).labels
        labels = predict(stored_as(volume, order), made, scorer(made)).labels
        np.testing.assert_array_equal(labels.array, stored_as(once, order).array)


def test_a_flip_of_the_voxels_alone_does_change_the_answer_of_a_network() -> None:
    """Else the tests above would prove nothing."""
    for made in (KINDS["3D"], KINDS["2D"]):
        image = np.random.default_rng(0).random((16, 24, 24), np.float32)
        for axis in (1, 2):
            once = label_grid(image, made, by_edge(made), lambda *_: None)[0]
            flipped = label_grid(np.flip(image, axis), made, by_edge(made), lambda *_: None)[0]
            assert (np.flip(flipped, axis) != once).any()


def stored_obliquely(volume: Volume, tilt: tuple[float, float, float]) -> Volume:
    """The scene resampled onto a turned grid that holds all of it, air around it."""
    direction = rotation(*tilt) @ CANONICAL
    spacing = np.array(volume.geometry.spacing)
    along = (volume.geometry.corners() - volume.geometry.corners().mean(axis=0)) @ direction
    shape = np.ceil(2 * np.abs(along).max(axis=0) / spacing).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = volume.geometry.corners().mean(axis=0) - affine[:3, :3] @ ((shape - 1) / 2)
    return resample_linear(volume, Geometry.from_affine(shape, affine)[0], HU["background"])


@pytest.mark.parametrize("tilt", [(12, 0, 0), (0, -9, 0), (7, 5, -14), (0, 0, 35)], ids=str)
@pytest.mark.parametrize("scorer", [by_tissue, partial(by_edge, reach=5)], ids=["tissue", "edge"])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_oblique_ct_gives_the_same_masks_in_world_space(dims: int, scorer, tilt) -> None:
    make = deep_manifest if dims == 3 else flat_manifest
    patch = (176, 240, 240) if dims == 3 else (1, 240, 240)
    # One patch, so that its borders do not move across the scene with the grid.
    made = make(sampling=Sampling((1.0, 1.0, 1.0)), patch=patch)
    volume = scene((96, 120, 108), (1.0, 1.0, 1.0))
    once = predict(volume, made, scorer(made)).labels
    oblique = stored_obliquely(volume, tilt)
    labels = predict(oblique, made, scorer(made)).labels
    back = resample_nearest(labels, volume.geometry).array
    assert len(np.unique(once.array)) == 4
    for name in OUTPUTS:
        value = BY_NAME[name].value
        assert dice(back == value, once.array == value) >= 0.95, name


@pytest.mark.parametrize("kind", ["3D", "2D", "3D, own voxels", "2D, by size"])
def test_labels_land_on_the_cts_own_voxels(kind: str) -> None:
    volume = scene()
    stored = Volume(volume.array, volume.geometry, ("a note",))
    labels = predict(stored, KINDS[kind], by_tissue(KINDS[kind])).labels
    assert labels.array.dtype == np.uint8
    assert labels.array.shape == volume.array.shape
    assert labels.geometry is volume.geometry
    assert labels.warnings == ("a note",)
    for name in OUTPUTS:
        value = BY_NAME[name].value
        # Voxels on the faces may go either way where the model's grid is another.
        wanted = 1.0 if kind == "3D, own voxels" else 0.9
        assert dice(labels.array == value, value == TRUTH) >= wanted, name


def test_sigmoid_and_softmax_agree_where_classes_are_apart() -> None:
    sampling = Sampling((None, None, None))
    for activation in ("softmax", "sigmoid"):
        made = deep_manifest(activation=activation, sampling=sampling)
        labels = predict(scene(), made, by_tissue(made)).labels
        np.testing.assert_array_equal(labels.array, TRUTH)


def test_the_manifests_cleanup_is_applied() -> None:
    value = BY_NAME["liver"].value
    own = Sampling((None, None, None))
    made = deep_manifest(sampling=own, cleanup=(Cleanup("liver", keep_largest=1),))
    labels = predict(scene(), made, by_tissue(made)).labels.array
    left = value == TRUTH
    left[:, left.shape[1] * 2 // 3 :] = False
    np.testing.assert_array_equal(labels == value, left)
    # Millilitres are those of the model's grid.
    volume_ml = left.sum() * scene().geometry.voxel_ml
    for factor, kept in ((0.99, True), (1.01, False)):
        made = deep_manifest(sampling=own, cleanup=(Cleanup("liver", 0, volume_ml * factor),))
        found = predict(scene(), made, by_tissue(made)).labels.array
        assert (found == BY_NAME["liver"].value).any() == kept


class Recorder:
    """A network that remembers the shapes it was given."""

    def __init__(self, scorer) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._scorer = scorer

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        assert patches.dtype == np.float32
        assert patches.flags.c_contiguous
        self.shapes.append(patches.shape)
        return self._scorer(patches)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    st.booleans(),
)
@settings(max_examples=40)
def test_any_size_is_seen_in_multiples_of_the_divisor(shape, overlap: float, flat: bool) -> None:
    make = flat_manifest if flat else deep_manifest
    made = make(overlap=overlap)
    low, high = made.intensity.window_hu
    names = np.array(["background", *OUTPUTS])[np.random.default_rng(1).integers(0, 4, shape)]
    tissue = np.vectorize(HU.get)(names)
    image = ((tissue - low) / (high - low)).astype(np.float32)
    seen = Recorder(by_tissue(made))
    labels = label_grid(image, made, seen, lambda *_: None)[0]
    # A network that looks at single voxels gives the labels of single voxels.
    expected = sum((BY_NAME[n].value * (names == n) for n in OUTPUTS), np.zeros(shape, int))
    np.testing.assert_array_equal(labels, expected)
    for patches in seen.shapes:
        assert patches[1] == 1
        space = patches[2:] if not flat else (1, *patches[2:])
        assert not np.mod(space, made.divisor).any()
        assert (np.array(space) <= made.patch).all()
        assert patches[0] == 1 or flat


def full_volume_scores(image: np.ndarray, made, scorer) -> np.ndarray:
    """The plain way: every patch's weighted scores added into one array of full size."""
    tiling = tile(image.shape, made.patch, made.divisor, made.overlap)
    pad = [(0, p - n) for p, n in zip(tiling.padded, image.shape, strict=True)]
    padded = np.pad(image, pad, constant_values=image.min())
    total = np.zeros((made.channels, *tiling.padded), np.float64)
    weight = np.zeros(tiling.padded, np.float64)
    for start in product(*tiling.starts):
        box = tuple(slice(s, s + p) for s, p in zip(start, tiling.patch, strict=True))
        patch = padded[box][None, None] if made.dims == 3 else padded[box][:, None]
        scores = scorer(np.ascontiguousarray(patch))
        scores = scores[0] if made.dims == 3 else scores.swapaxes(0, 1)
        total[:, *box] += scores * weights(tiling.patch)
        weight[box] += weights(tiling.patch)
    z, y, x = (slice(0, n) for n in image.shape)
    return (total / weight)[:, z, y, x]


@pytest.mark.parametrize("shape", [(37, 50, 41), (16, 24, 24), (5, 9, 70), (33, 24, 10)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("make", [deep_manifest, flat_manifest])
def test_walking_by_rows_equals_the_mean_over_the_whole_volume(make, overlap, shape) -> None:
    made = make(overlap=overlap)
    image = np.random.default_rng(2).random(shape, np.float32)
    plain = full_volume_scores(image, made, by_edge(made))
    walked = np.full_like(plain, np.nan)
    for where, scores, weight in grid_scores(image, made, by_edge(made), lambda *_: None):
        assert np.isnan(walked[:, where]).all()
        walked[:, where] = scores / weight
    np.testing.assert_allclose(walked, plain, rtol=1e-4, atol=1e-5)
    labels, sure = label_grid(image, made, by_edge(made), lambda *_: None)
    assert (decide(plain, made) == labels).mean() > 0.9999
    parts = np.exp(plain - plain.max(axis=0))
    best = np.rint(255 * parts.max(axis=0) / parts.sum(axis=0)) * (labels > 0)
    assert np.abs(sure - best).max() <= 1


@pytest.mark.parametrize("make", [deep_manifest, flat_manifest])
def test_scores_of_the_whole_volume_are_never_held(make) -> None:
    made = make(patch=(1 if make is flat_manifest else 16, 48, 48), outputs=OUTPUTS)

    def peak(depth: int) -> int:
        image = np.random.default_rng(0).random((depth, 48, 48), np.float32)
        tracemalloc.start()
        label_grid(image, made, by_tissue(made), lambda *_: None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    short, long = peak(64), peak(512)
    labels = (512 - 64) * 48 * 48
    # Longer by its labels and how sure they are alone, a byte a voxel each, not by 16 bytes of
    # scores a voxel.
    assert long - short < 2.5 * labels


def test_a_full_sized_ct_costs_no_floats_of_its_own_size() -> None:
    """Scores and network input are of the model's grid; only labels are of the CT's."""
    made = deep_manifest(sampling=Sampling((5.0, 4.0, 4.0)))
    volume = scene((96, 256, 256), (1.0, 0.8, 0.8))
    tracemalloc.start()
    predict(volume, made, by_tissue(made))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * volume.array.size


@pytest.mark.parametrize(
    "spoil",
    [
        lambda scores: scores[:, :-1],
        lambda scores: scores[..., :-1],
        lambda scores: scores[0],
        lambda scores: np.concatenate([scores, scores]),
        lambda scores: np.float32(1),
    ],
)
@pytest.mark.parametrize("kind", ["3D", "2D"])
def test_scores_of_another_shape_are_refused(kind: str, spoil) -> None:
    made = KINDS[kind]
    scorer = by_tissue(made)
    with pytest.raises(CorruptModel, match="its manifest promises"):
        predict(scene(), made, lambda patches: spoil(scorer(patches)))


@pytest.mark.parametrize("hu", [-1024, 60, 32767])
def test_where_all_is_one_brightness_nothing_is_looked_for(hu: int) -> None:
    """Whatever a network would make of it; where a single voxel differs, it is asked."""
    made = deep_manifest()
    everything = Recorder(lambda p: np.tile(np.arange(4.0)[:, None, None, None], p.shape))
    filled = scene().with_array(np.full_like(scene().array, hu))
    assert not predict(filled, made, everything).labels.array.any()
    assert not everything.shapes
    filled.array[5:9, 5:9, 5:9] = HU["kidney"]
    assert predict(filled, made, everything).labels.array.all()


@pytest.mark.parametrize("kind", ["3D", "2D"])
def test_progress_is_told_in_order(kind: str) -> None:
    told: list[tuple[str, float]] = []
    made = KINDS[kind]
    predict(scene(), made, by_tissue(made), lambda step, part: told.append((step, part)))
    steps = list(dict.fromkeys(step for step, _ in told))
    assert steps == ["preprocess", "network", "postprocess"]
    network = [part for step, part in told if step == "network"]
    assert network[0] == 0.0
    assert network[-1] == 1.0
    assert network == sorted(network)
    assert len(network) > 2
    assert told[-1] == ("postprocess", 1.0)


@pytest.mark.parametrize("when", ["preprocess", "network", "postprocess"])
def test_raising_in_progress_stops_the_work(when: str) -> None:
    made = KINDS["3D"]
    seen = Recorder(by_tissue(made))
    predict(scene(), made, seen)
    patches = len(seen.shapes)
    seen.shapes.clear()

    def stop(step: str, part: float) -> None:
        if step == when and (part > 0 or step != "network"):
            raise Cancelled("The caller went away.")

    with pytest.raises(Cancelled):
        predict(scene(), made, seen, stop)
    assert len(seen.shapes) == {"preprocess": 0, "network": 1, "postprocess": patches}[when]
    assert patches > 3
