"""The picture: right way round, true aspect, the same from every storage order."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from imaging.errors import BadParameter
from imaging.geometry import Geometry
from imaging.volume import Volume
from models.labels import BY_NAME, DEFAULT_MASKS
from serving.preview import _areas, preview_png
from tests.serving.tiny_model import boxes_ct


def draw(volume: Volume, labels: Volume, masks: Sequence[str] = DEFAULT_MASKS) -> np.ndarray:
    with Image.open(io.BytesIO(preview_png(volume, labels, masks))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(picture: np.ndarray, name: str) -> np.ndarray:
    """Where contours and legend are in a structure's own colour, (rows, columns)."""
    return np.argwhere((picture == BY_NAME[name].colour).all(axis=-1))


@pytest.mark.parametrize(
    ("axes", "flips"),
    [((2, 0, 1), (True, False, True)), ((1, 2, 0), (False, True, False))],
)
def test_storage_order_does_not_change_the_picture(
    axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    volume, labels = boxes_ct()
    turn = tuple(slice(None, None, -1 if f else 1) for f in flips)
    geometry = volume.geometry.transposed(axes, flips)
    plain = draw(volume, volume.with_array(labels))
    turned = draw(
        Volume(volume.array.transpose(axes)[turn], geometry),
        Volume(labels.transpose(axes)[turn], geometry),
    )
    np.testing.assert_array_equal(plain, turned)


def test_the_patients_left_is_on_the_right_and_back_is_down() -> None:
    volume, labels = boxes_ct((20, 40, 48))
    picture = draw(volume, volume.with_array(labels))
    # The axial panel is the first, 48 x 0.9 mm wide at 560 pixels for 420 mm, over the legend;
    # the kidney lies left and behind of the pancreas.
    panel = picture[:90, : 16 + 58]
    kidney, pancreas = (coloured(panel, n) for n in ("kidney", "pancreas"))
    assert len(kidney)
    assert len(pancreas)
    (ky, kx), (py, px) = (p.mean(axis=0) for p in (kidney, pancreas))
    assert kx > px
    assert ky > py


def test_nothing_found_is_a_picture_too() -> None:
    volume, labels = boxes_ct()
    picture = draw(volume, volume.with_array(np.zeros_like(labels)))
    assert len(coloured(picture, "kidney")) == 0
    assert picture.max() > 200


def test_masks_that_were_not_asked_for_are_not_drawn() -> None:
    volume, labels = boxes_ct()
    picture = draw(volume, volume.with_array(labels), ("kidney",))
    assert len(coloured(picture, "kidney"))
    assert not len(coloured(picture, "pancreas"))


def test_the_planes_that_show_most_are_drawn_in_a_long_scan() -> None:
    """More slices than a byte counts, each with the structure, and one slice with most of it."""
    shape = (600, 12, 10)
    labels = np.zeros(shape, np.uint8)
    labels[:, 4, 4] = BY_NAME["kidney"].value
    labels[431, 2:9, 1:8] = BY_NAME["kidney"].value
    geometry = Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
    volume = Volume(np.zeros(shape, np.int16), geometry)
    areas = _areas(Volume(labels, geometry), [BY_NAME["kidney"].value])
    truth = labels > 0
    for axis, counted in enumerate(areas[0]):
        np.testing.assert_array_equal(
            counted, np.count_nonzero(truth, axis=tuple({0, 1, 2} - {axis}))
        )
    assert len(coloured(draw(volume, Volume(labels, geometry)), "kidney"))


def test_an_unknown_mask_is_refused() -> None:
    volume, labels = boxes_ct()
    with pytest.raises(BadParameter, match="appendix"):
        preview_png(volume, volume.with_array(labels), ("appendix",))
