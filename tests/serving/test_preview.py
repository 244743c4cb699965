"""The picture: right way round, true aspect, the same from every storage order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaging.volume import Volume
from models.labels import BY_NAME
from serving.preview import preview
from tests.serving.tiny_model import boxes_ct


def draw(path: Path, volume: Volume, labels: Volume) -> np.ndarray:
    preview(volume, labels, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(picture: np.ndarray, name: str) -> np.ndarray:
    """Where contours and legend are in a structure's own colour, (rows, columns)."""
    return np.argwhere((picture == BY_NAME[name].colour).all(axis=-1))


@pytest.mark.parametrize(
    ("axes", "flips"),
    [((2, 0, 1), (True, False, True)), ((1, 2, 0), (False, True, False))],
)
def test_storage_order_does_not_change_the_picture(
    tmp_path: Path, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    volume, labels = boxes_ct()
    turn = tuple(slice(None, None, -1 if f else 1) for f in flips)
    geometry = volume.geometry.transposed(axes, flips)
    plain = draw(tmp_path / "a.png", volume, volume.with_array(labels))
    turned = draw(
        tmp_path / "b.png",
        Volume(volume.array.transpose(axes)[turn], geometry),
        Volume(labels.transpose(axes)[turn], geometry),
    )
    np.testing.assert_array_equal(plain, turned)


def test_the_patients_left_is_on_the_right_and_back_is_down(tmp_path: Path) -> None:
    volume, labels = boxes_ct((20, 40, 48))
    picture = draw(tmp_path / "a.png", volume, volume.with_array(labels))
    # The axial panel is the first, 48 x 0.9 mm wide at 560 pixels for 420 mm, over the legend;
    # the kidney lies left and behind of the pancreas.
    panel = picture[:90, : 16 + 58]
    kidney, pancreas = (coloured(panel, n) for n in ("kidney", "pancreas"))
    assert len(kidney)
    assert len(pancreas)
    (ky, kx), (py, px) = (p.mean(axis=0) for p in (kidney, pancreas))
    assert kx > px
    assert ky > py


def test_nothing_found_is_a_picture_too(tmp_path: Path) -> None:
    volume, labels = boxes_ct()
    picture = draw(tmp_path / "a.png", volume, volume.with_array(np.zeros_like(labels)))
    assert len(coloured(picture, "kidney")) == 0
    assert picture.max() > 200
