"""``islet models`` and what stands below it."""

from __future__ import annotations

from pathlib import Path

import pytest

import islet
from models.onnxfile import embed
from models.store import Store
from tests.models.foreign_graphs import conv
from tests.models.manifests import manifest


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store that commands change, without the models that ship; nothing is run."""
    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("models.door.attempt", lambda path: None)
    return Store(tmp_path / "store", behind=())


@pytest.fixture
def sent(tmp_path: Path) -> list[str]:
    """The arguments that name a model and the manifest beside it."""
    (tmp_path / "m.onnx").write_bytes(conv().SerializeToString())
    (tmp_path / "m.json").write_text(manifest().to_json())
    return [str(tmp_path / "m.onnx"), "--manifest", str(tmp_path / "m.json")]


def test_a_model_is_published_listed_pointed_at_and_removed(
    own: Store, sent: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for alias in ("live", "global"):
        assert islet.main(["models", "publish", *sent, "--alias", alias]) == 0
    assert own.aliases("tiny") == {"global": 2, "live": 1}
    assert islet.main(["models", "alias", "tiny", "live", "2"]) == 0
    assert islet.main(["models", "remove", "tiny@1"]) == 0
    assert islet.main(["models", "remove", "tiny@global"]) == 0
    assert (own.versions("tiny"), own.aliases("tiny")) == ([2], {"live": 2})
    capsys.readouterr()
    assert islet.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tiny@2  live  tiny  pancreas,kidney  research use only" in lines
    assert any(line.startswith("starter@8  global,live  ") for line in lines)


def test_a_broken_version_is_listed_as_such(
    own: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(conv(), manifest(), tmp_path / "own.onnx")
    own.publish(tmp_path / "own.onnx").path.write_bytes(b"broken")
    assert islet.main(["models"]) == 0
    assert "tiny@1  live  corrupt_model" in capsys.readouterr().out


def test_a_check_changes_nothing(
    own: Store, sent: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert islet.main(["models", "check", *sent]) == 0
    assert capsys.readouterr().out == "tiny passes: 3D, pancreas,kidney.\n"
    assert not own.root.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "absent.onnx"], "model_refused: There is no file absent.onnx"),
        (["publish", "absent.onnx", "--manifest", "absent.json"], "no file absent.json"),
        (["alias", "tiny", "live", "7"], "model_not_found"),
        (["remove", "tiny"], "names a whole model"),
        (["remove", "tiny@7"], "model_not_found"),
        (["remove", "starter@8"], "ships with Islet"),
    ],
)
def test_what_cannot_be_done_is_said(
    own: Store, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert islet.main(["models", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not own.root.exists()
