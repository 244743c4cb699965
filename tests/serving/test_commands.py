"""The command line's side: files in a folder, listings, settings."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from imaging.errors import BadParameter
from imaging.limits import MIB
from models.store import Store
from serving import commands
from serving.process import serve_command, serve_environment
from serving.settings import Settings


def arguments(ct: Path, out: Path, **given: object) -> argparse.Namespace:
    empty = {"model": None, "structures": None, "series": None, "device": None}
    return argparse.Namespace(ct=ct, out=out, **(empty | given))


def test_segment_writes_label_map_masks_and_report(
    store: Store,
    ct: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    out = tmp_path / "made" / "here"
    assert commands.segment(arguments(ct, out)) == 0
    names = {"labels.nii.gz", "pancreas.nii.gz", "tumor.nii.gz", "kidney.nii.gz", "report.json"}
    assert {p.name for p in out.iterdir()} == names
    printed = capsys.readouterr().out
    assert "pancreas                     1.7" in printed
    assert "not looked for: kidney_tumor" in printed


def test_a_refused_request_writes_nothing(
    store: Store, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    with pytest.raises(BadParameter):
        commands.segment(arguments(ct, tmp_path / "out", structures="liver"))
    assert not (tmp_path / "out").exists()


def test_models_are_listed_one_a_line(store: Store) -> None:
    lines = commands.model_lines(store)
    assert [line.split("  ")[:2] for line in lines] == [["flat@1", "live"], ["starter@1", "live"]]
    (said,) = commands.model_lines(Store(store.root / "none", behind=()))
    assert "empty" in said


def test_settings_come_from_the_environment() -> None:
    env = {"ISLET_MAX_UPLOAD_MB": "3", "ISLET_MODEL": "monet@global", "ISLET_WAITING": "0"}
    settings = Settings.from_environment(env)
    assert settings.limits.max_bytes == 3 * MIB
    assert (settings.model, settings.waiting, settings.threads) == ("monet@global", 0, None)
    assert Settings.from_environment({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ISLET_WAITING", "-1"), ("ISLET_CONCURRENCY", "0"), ("ISLET_DEVICE", "tpu")],
)
def test_settings_outside_their_range_are_named(name: str, value: str) -> None:
    with pytest.raises(BadParameter, match=name):
        Settings.from_environment({name: value})


def test_serving_does_not_track_and_keeps_its_store() -> None:
    environment = serve_environment({"ISLET_STORE": "store"})
    assert environment["BENTOML_DO_NOT_TRACK"] == "True"
    assert Path(environment["ISLET_STORE"]) == Path.cwd() / "store"
    assert serve_command("127.0.0.1", 1)[-4:] == ["--host", "127.0.0.1", "--port", "1"]
