"""The command line's side: files in a folder, listings, settings."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from imaging.errors import BadParameter, IsletError, NotDicom
from imaging.limits import MIB
from models.store import Store
from serving import commands
from serving.process import serve_environment
from serving.settings import PATH_VARIABLES, Settings


def arguments(ct: Path, out: Path, **given: object) -> argparse.Namespace:
    names = ("model", "structures", "outputs", "series", "device", "doubtful")
    empty = dict.fromkeys(names)
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
    masks = {"pancreas.nii.gz", "tumor.nii.gz", "kidney.nii.gz"}
    assert {p.name for p in out.iterdir()} == masks | {
        "labels.nii.gz",
        "preview.png",
        "report.json",
    }
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


def test_outputs_are_chosen_by_name(
    store: Store, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    assert commands.segment(arguments(ct, tmp_path / "out", outputs="report")) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"preview.png", "report.json"}
    with pytest.raises(NotDicom):
        commands.segment(arguments(ct, tmp_path / "seg", outputs="nifti,seg"))
    assert not (tmp_path / "seg").exists()


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    env = {
        "ISLET_MAX_UPLOAD_MB": "3",
        "ISLET_MODEL": "monet@global",
        "ISLET_WORKERS": "0",
        "ISLET_SPOOL": str(tmp_path),
    }
    settings = Settings.from_environment(env)
    assert settings.limits.max_bytes == 3 * MIB
    assert (settings.model, settings.workers, settings.threads) == ("monet@global", 0, None)
    assert (settings.spool, settings.database) == (tmp_path, None)
    assert Settings.from_environment({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ISLET_KEEP_HOURS", "-1"),
        ("ISLET_QUEUE", "0"),
        ("ISLET_DEVICE", "tpu"),
        ("ISLET_RUNTIME", "tensorflow"),
        ("ISLET_DATABASE", "mysql://x"),
    ],
)
def test_settings_outside_their_range_are_named(name: str, value: str) -> None:
    with pytest.raises(BadParameter, match=name):
        Settings.from_environment({name: value})


def test_serving_to_others_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ISLET_TOKENS", "ISLET_OIDC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(commands.os, "execvpe", lambda *_: pytest.fail("it serves"))
    given = argparse.Namespace(host="0.0.0.0", port=1, tls_cert=None, tls_key=None, tls_ca=None)
    with pytest.raises(IsletError, match="token"):
        commands.serve(given)


def test_serving_does_not_track_and_keeps_its_paths() -> None:
    """BentoML changes the working directory."""
    variables = ("ISLET_STORE", *PATH_VARIABLES)
    environment = serve_environment(dict.fromkeys(variables, "here"))
    assert environment["BENTOML_DO_NOT_TRACK"] == "True"
    assert {environment[name] for name in variables} == {str(Path.cwd() / "here")}
    paths = {field.name for field in dataclasses.fields(Settings) if "Path" in str(field.type)}
    assert {name.removeprefix("ISLET_").lower() for name in PATH_VARIABLES} == paths
