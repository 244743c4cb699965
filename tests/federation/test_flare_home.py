"""A site's settings stay in its kit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from federation.flare.home import (
    Settings,
    change_settings,
    keep_home,
    read_home,
    read_settings,
    read_tracking,
    write_settings,
    write_tracking,
)
from federation.home import Home
from federation.policy import Policy
from imaging.errors import BadParameter


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    write_settings(tmp_path / "c1", Settings("c1"))
    return tmp_path / "c1"


def test_flags_are_remembered_and_changed_one_by_one(kit: Path, tmp_path: Path) -> None:
    change_settings(kit, [tmp_path / "a", tmp_path / "b"], tmp_path / "store", threads=3)
    change_settings(kit, device="cpu")
    home = read_home(kit)
    assert home.data == (tmp_path / "a", tmp_path / "b")
    assert (home.name, home.store, home.device, home.threads) == (
        "c1",
        tmp_path / "store",
        "cpu",
        3,
    )
    assert home.folder.parent == kit


def test_paths_hold_in_another_directory(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change_settings(kit, [Path("cases")], Path("store"))
    monkeypatch.chdir("/")
    assert read_home(kit).data == (tmp_path / "cases",)


def test_without_flags_the_defaults_hold(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISLET_STORE", "/somewhere/store")
    home = read_home(kit)
    assert home.policy == Policy()
    assert home.store == Path("/somewhere/store")


def test_a_policy_is_read_before_it_is_kept(kit: Path, tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text("max_rounds = 3\n")
    change_settings(kit, policy=policy)
    assert read_home(kit).policy.max_rounds == 3
    policy.write_text("max_round = 4\n")
    with pytest.raises(BadParameter, match="max_round"):
        change_settings(kit, policy=policy)
    assert read_home(kit).policy.max_rounds == 3


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(("wang2020",), 5, 2, 0.5, 8.0, ("int8",), ("cases", "norms"))]
)
def test_a_home_is_kept_whole(kit: Path, tmp_path: Path, policy: Policy) -> None:
    home = Home("c1", kit / "islet", (tmp_path / "a",), tmp_path / "s", policy, "cpu", 2)
    keep_home(kit, home)
    assert read_home(kit) == home
    assert read_home(kit).policy.max_epsilon in (math.inf, 8.0)


def test_what_is_no_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="no site's kit"):
        read_settings(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "c1"}', '{"data": [], "colour": 1}', "{"])
def test_damaged_settings_are_refused(kit: Path, text: str) -> None:
    (kit / "local" / "islet.json").write_text(text)
    with pytest.raises(BadParameter, match="damaged"):
        read_settings(kit)


def test_a_training_has_a_thread(kit: Path) -> None:
    with pytest.raises(BadParameter, match="threads"):
        Settings("c1", threads=0)


def test_a_server_remembers_where_its_curves_go(tmp_path: Path) -> None:
    assert read_tracking(tmp_path) == ((), None)
    write_tracking(tmp_path, ["mlflow"], "sqlite:///a.db")
    assert read_tracking(tmp_path) == (("mlflow",), "sqlite:///a.db")
    (tmp_path / "local" / "tracking.json").write_text("{}")
    with pytest.raises(BadParameter, match="damaged"):
        read_tracking(tmp_path)
