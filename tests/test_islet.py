"""The front door: help and version at once, errors as sentences, floors only when called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import islet
from imaging.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "monai", "onnxruntime", "onnx", "bentoml", "SimpleITK", "nibabel")

# What the command line says of the floors, and no more.
SAID = {
    "serving": {"serving", "serving.guard", "serving.guard.commands", "serving.models_cli"},
    "training": {"training", "training.data_cli"},
    "federation": {
        *("federation", "federation.commands"),
        *("federation.starter_cli", "federation.ticker"),
    },
}


def of_floor(modules: set[str], floor: str) -> set[str]:
    return {m for m in modules if m.split(".")[0] == floor}


def loaded_by(*argv: str) -> set[str]:
    """Names of the modules that a command line brings in, in a fresh process."""
    code = (
        "import json, sys, islet\n"
        "try:\n    islet.main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "argv",
    [("--help",), ("--version",)]
    # One of each that adds its own.
    + [(name, "--help") for name in ("segment", "models", "token", "train", "federate")],
    ids=" ".join,
)
def test_help_brings_in_no_floor(argv: tuple[str, ...]) -> None:
    modules = loaded_by(*argv)
    assert not modules & {*HEAVY, "models", "nvflare", "httpx", "sqlalchemy", "pynetdicom"}
    for floor, said in SAID.items():
        assert of_floor(modules, floor) <= said


def test_serving_brings_in_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISLET_STORE", str(tmp_path))
    modules = loaded_by("models")
    assert "models.store" in modules
    assert not modules & {"torch", "monai", "models.architectures", "bentoml"}
    assert of_floor(modules, "training") <= SAID["training"]
    (tmp_path / "no-ct").write_bytes(b"not a CT")
    modules = loaded_by("segment", str(tmp_path / "no-ct"), "-o", str(tmp_path / "out"))
    assert "serving.segment" in modules
    assert not modules & {"torch", "monai", "models.architectures"}
    assert of_floor(modules, "training") <= SAID["training"]


def test_training_brings_in_no_serving(tmp_path: Path) -> None:
    modules = loaded_by("train", "nosuch", "--data", str(tmp_path), "-o", str(tmp_path))
    assert "training.commands" in modules
    assert "torch" in modules
    assert not {m for m in modules if m.split(".")[0] in ("bentoml", "nvflare")}
    assert of_floor(modules, "serving") <= SAID["serving"]
    assert of_floor(modules, "federation") <= SAID["federation"]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        islet.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in (
        *("segment", "jobs", "demo", "serve", "work", "dimse", "models", "token"),
        *("train", "crossvalidate", "evaluate", "federate"),
    ):
        assert name in text
    assert "export" in text
    assert "phantom" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        islet.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"islet {VERSION}\n"


@pytest.mark.parametrize("argv", [[], ["nosuch"], ["train"], ["segment", "ct"]], ids=str)
def test_a_wrong_command_line_exits_with_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        islet.main(argv)
    assert stopped.value.code == 2
    assert "usage: islet" in capsys.readouterr().err


def test_an_error_is_a_sentence_with_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "starter", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert islet.main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"islet: bad_case: {tmp_path} is no data set")
    assert len(captured.err.splitlines()) == 1
    assert islet.main(["--debug", *command]) == 2
    details = json.loads(capsys.readouterr().err.splitlines()[1])
    assert details["code"] == "bad_case"


def test_an_interrupt_exits_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from serving import commands

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "serve", interrupted)
    assert islet.main(["serve"]) == 130
    assert capsys.readouterr().err == ""
