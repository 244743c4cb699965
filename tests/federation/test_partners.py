"""CTs shared out to sites: each has its own cases, labels and phantoms, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation import partners
from federation.learner import cases_of
from federation.partners import STARTER, Partner, share_out, without
from imaging.errors import BadParameter
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from tests.training.tiny import loaded
from training.cases import load
from training.datasets import ct_index, open_dataset
from training.phantoms.sets import write_decathlon
from training.recipes import recipe


@pytest.fixture
def data(tmp_path: Path) -> Path:
    meta = {
        "name": "blocks",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "pancreas", "3": "kidney"},
        "islet_annotated": ["pancreas", "kidney"],
    }
    blocks = [(f"ct{n}", loaded(n)) for n in range(3)]
    write_decathlon(tmp_path / "data", ((n, c.image, c.labels) for n, c in blocks), meta)
    return tmp_path / "data"


def test_a_site_has_its_cases_with_its_labels_alone(data: Path, tmp_path: Path) -> None:
    sites = (
        Partner("a", ("pancreas", "kidney"), ("ct0", "ct2")),
        Partner("b", ("kidney",), ("ct1",)),
    )
    found = share_out(sites, [data], None, tmp_path / "out", 0)
    cases = {name: [c for f in folders for c in open_dataset(f)] for name, folders in found.items()}
    assert {n: [c.name for c in own] for n, own in cases.items()} == {
        "a": ["ct0", "ct2"],
        "b": ["ct1"],
    }
    assert cases["b"][0].annotated == ("kidney",)
    assert set(np.unique(load(cases["b"][0]).labels.array)) == {0, BY_NAME["kidney"].value}


def test_phantoms_are_labelled_as_their_site_labels(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def series(count: int, seed: int, structures: tuple[str, ...]) -> list[object]:
        asked.append((count, seed, structures))
        return []

    monkeypatch.setattr(partners, "phantom_series", series)
    sites = (Partner("a", ("kidney",), ("ct0",), phantoms=2), Partner("b", ("liver",), phantoms=3))
    found = share_out(sites, [data], None, tmp_path / "out", 0)
    assert [len(folders) for folders in found.values()] == [2, 1]
    (two, one, kidney), (three, other, liver) = asked
    assert (two, kidney, three, liver) == (2, ("kidney",), 3, ("liver",))
    assert one != other
    # What is whole is left; another seed would be another folder's.
    share_out(sites, [data], None, tmp_path / "out", 0)
    assert len(asked) == 2


def test_a_site_knows_that_strangers_hold_nothing_that_it_labels(
    data: Path, tmp_path: Path
) -> None:
    sites = (Partner("a", ("kidney",), ("ct0",), strangers=2),)
    folders = share_out(sites, [data], None, tmp_path / "out", 0)["a"]
    cases = open_dataset(folders[1])
    assert [c.annotated for c in cases] == [("kidney",), ("kidney",)]
    assert not any(load(c).labels.array.any() for c in cases)


def test_half_a_set_is_made_again(data: Path, tmp_path: Path) -> None:
    sites = (Partner("a", ("kidney",), ("ct0",)),)
    (folder,) = share_out(sites, [data], None, tmp_path / "out", 0)["a"]
    (folder / "index.json").unlink()
    (folder / "ct0" / "left.part").touch()
    assert share_out(sites, [data], None, tmp_path / "out", 0) == {"a": (folder,)}
    assert open_dataset(folder)[0].name == "ct0"
    assert not (folder / "ct0" / "left.part").exists()


def test_cts_are_kept_aside_to_judge_by(data: Path, tmp_path: Path) -> None:
    left = without(STARTER, ["tcga_coad", "thorax_abdomen_p2"])
    cases = {site.name: site.cases for site in left}
    assert cases == {"a": ("ircad17", "totalseg_example"), "b": ("chaos3",), "d": ()}
    assert [site.weight for site in left] == [2, 1, 1]
    assert without(STARTER, []) == STARTER
    with pytest.raises(BadParameter, match="No site has ct9"):
        without(STARTER, ["ct9"])
    sites = (Partner("a", ("kidney",), ("ct0", "ct1")), Partner("d", ("kidney",), phantoms=1))
    with pytest.raises(BadParameter, match="No site has a CT left"):
        without(sites, ["ct0", "ct1"])
    # A run that has seen a CT does not become one that has not.
    share_out(sites[:1], [data], None, tmp_path / "out", 0)
    with pytest.raises(BadParameter, match="name another --out"):
        share_out(without(sites[:1], ["ct1"]), [data], None, tmp_path / "out", 0)


def test_what_does_not_go_together_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="No data set holds ircad17"):
        share_out(STARTER, [data], None, tmp_path / "out", 0)
    copies = (Partner("a", ("kidney",), ("ct0",), copies=2),)
    with pytest.raises(BadParameter, match="need --shapes"):
        share_out(copies, [data], None, tmp_path / "out", 0)
    for wrong in ({"name": "A b"}, {"annotated": ("heart",)}, {"copies": -1}, {"cases": ()}):
        fields = {"name": "a", "annotated": ("kidney",), "cases": ("ct0",)} | wrong
        with pytest.raises(BadParameter):
            Partner(**fields)


def test_the_starters_sites_share_no_ct_and_label_differently() -> None:
    named = [name for site in STARTER for name in site.cases]
    assert len(named) == len(set(named)) == 5
    labels = {site.name: set(site.annotated) for site in STARTER}
    assert not any("tumor" in name for name in labels["a"])
    assert labels["d"] == {"kidney"}
    assert labels["b"] > labels["a"]
    assert labels["b"] - labels["c"] == {"liver"}
    # Every output of the model is labelled somewhere.
    assert set().union(*labels.values()) >= set(recipe("starter").outputs)


def test_no_copy_of_a_patient_who_is_trained_on_is_validated_on(tmp_path: Path) -> None:
    def written(patients: list[str]) -> tuple[list[str], list[str]]:
        folder = tmp_path / f"of-{len(set(patients))}"
        entries = []
        for place, patient in enumerate(patients):
            name = f"{place:02d}"
            for file, volume in (("ct", loaded(0).image), ("label", loaded(0).labels)):
                write_nifti(volume, folder / name / f"{file}.nii.gz")
            entries.append({"case": name, "annotated": ["kidney"], "patient": patient})
        ct_index.write_index(folder, entries)
        train, validation = cases_of((folder,))
        return [c.name for c in train], [c.name for c in validation]

    assert written(list("aaaabbbb"))[1] == []
    train, validation = written(list("abcdefgede"))
    assert validation == ["04", "07", "09"], "all of the fifth patient's"
    assert len(train) == 7
