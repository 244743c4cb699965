"""A set of planted copies, read back as any data set is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import islet
from imaging.errors import BadParameter
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from tests.training.planting.scene import patient
from training.cases import load
from training.datasets import open_dataset
from training.datasets.ct_index import write_index
from training.planting import Shapes
from training.planting.sets import plant_set


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of one case with pseudo-labels."""
    case, home = patient(), tmp_path / "data"
    write_nifti(case.image, home / "one" / "ct.nii.gz")
    write_nifti(case.labels, home / "one" / "label.nii.gz")
    entry = {"case": "one", "annotated": list(case.annotated), "provenance": "a hospital"}
    write_index(home, [{**entry, "licence": "CC BY 3.0", "label": "pseudo"}])
    return home


def test_the_command_writes_a_set_that_is_read(data: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["data", "plant", str(data), "-o", str(out), "--shapes", str(folder), "--copies", "2"]
    assert islet.main([*words, "--seed", "3", "--kinds", "kidney_tumor", "pancreas_tumor"]) == 0
    cases = open_dataset(out)
    assert [c.name for c in cases] == ["one-000", "one-001"]
    entries = json.loads((out / "index.json").read_text())["cases"]
    for case, entry in zip(cases, entries, strict=True):
        read = load(case)
        lesions = ("pancreas_tumor", "kidney_tumor", "kidney_cyst")
        assert read.annotated == (*patient().annotated, *lesions)
        assert entry["label"] == "pseudo; planted lesions exact"
        assert entry["licence"].startswith("CC BY 3.0; ")
        assert entry["patient"] == "one"
        assert entry["lesions"]
        for kind in lesions:
            told = sum(le["volume_ml"] for le in entry["lesions"] if le["kind"] == kind)
            found = (read.labels.array == BY_NAME[kind].value).sum() * 0.008
            assert told >= found - 1e-6
            assert (told > 0) == (found > 0)
        names = {le["shape"].partition("/")[0] for le in entry["lesions"]}
        assert ("kits23" in names) == ("KiTS23" in entry["licence"])
        assert ("panorama" in names) == ("PANORAMA" in entry["provenance"])


def test_a_copy_does_not_depend_on_how_many_are_made(
    data: Path, shapes: Shapes, tmp_path: Path
) -> None:
    cases = open_dataset(data)
    plant_set(cases, tmp_path / "few", shapes, 1, 5)
    plant_set(cases, tmp_path / "many", shapes, 2, 5)
    plant_set(cases, tmp_path / "other", shapes, 1, 6)
    for name in ("ct.nii.gz", "label.nii.gz"):
        few, many, other = (
            (tmp_path / f / "one-000" / name).read_bytes() for f in ("few", "many", "other")
        )
        assert few == many
        assert few != other
    assert (tmp_path / "many" / "one-001" / name).read_bytes() != many


def test_refusals(data: Path, shapes: Shapes, folder: Path, tmp_path: Path) -> None:
    cases = open_dataset(data)
    with pytest.raises(BadParameter, match="not empty"):
        plant_set(cases, data, shapes, 1, 0)
    with pytest.raises(BadParameter, match=r"copies \(0\)"):
        plant_set(cases, tmp_path / "a", shapes, 0, 0)
    with pytest.raises(BadParameter, match="no real shapes"):
        plant_set(cases, tmp_path / "a", shapes, 1, 0, ("wart",))  # type: ignore[arg-type]
    write_nifti(patient().image, data / "two" / "ct.nii.gz")
    write_nifti(
        patient().labels.with_array(np.zeros((60, 80, 130), np.uint8)),
        data / "two" / "label.nii.gz",
    )
    write_index(data, [{"case": "two", "annotated": ["spleen"]}])
    with pytest.raises(BadParameter, match="annotates kidney or pancreas"):
        plant_set(open_dataset(data), tmp_path / "a", shapes, 1, 0)
    assert not (tmp_path / "a").exists()
    words = ["data", "plant", str(data), "-o", str(tmp_path / "a"), "--shapes", str(tmp_path)]
    assert islet.main(words) == 2
