"""The sub-commands: flags become a job, standings become text, wrong kits are named."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from federation import commands
from federation.flare.coordinators import Standing, coordinator
from federation.flare.home import environment
from federation.job import Job, Privacy
from federation.progress import TOOK_PART, TRAINING, Entry, History, Round
from federation.studies import cohorts
from federation.ticker import Ticker
from imaging.errors import BadParameter, IsletError
from tests.federation.sites import job


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers())
    return parser.parse_args(["federate", *words])


def made(*words: str) -> Job:
    return commands.make_job(parsed("submit", *words, "--kit", "k"))


def test_a_recipe_and_flags_are_a_job() -> None:
    flags = ("--rounds", "3", "--local-epochs", "2", "--codec", "int8", "--label-aware")
    found = made("starter-organs", "--scale", "tiny", *flags)
    assert (found.rounds, found.local_epochs, found.codec) == (3, 2, "int8")
    assert (found.label_aware, found.local_head) == (True, False)
    assert found.recipe.steps == 6 * found.recipe.steps_per_epoch


def test_a_recipe_of_parts_needs_a_model() -> None:
    with pytest.raises(BadParameter, match="made from starter-organs, starter-lesions, which a"):
        made("starter", "--scale", "tiny")
    assert made("starter", "--scale", "tiny", "--start", "starter@global").start


def test_without_flags_a_jobs_defaults_hold() -> None:
    found = made("starter-organs", "--scale", "tiny")
    assert found == Job(found.name, found.recipe)


def test_a_file_is_a_whole_job(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(job(rounds=4).to_json())
    assert made(str(tmp_path / "job.json")) == job(rounds=4)
    for flags in (("--rounds", "2"), ("--option", "mu=1"), ("--privacy", "1", "1", "1e-5")):
        with pytest.raises(BadParameter, match="leave the flags away"):
            made(str(tmp_path / "job.json"), *flags)


def test_figures_of_a_strategy_and_noise_are_flags_too() -> None:
    flags = ("--strategy", "fedprox", "--option", "mu=0.1", "--privacy", "2", "0.5", "1e-6")
    found = made("starter-organs", "--scale", "tiny", *flags)
    assert (found.strategy, found.options) == ("fedprox", {"mu": 0.1})
    assert found.privacy == Privacy(2.0, 0.5, 1e-6)
    for wrong in ("mu", "mu=high", "tau=1", "mu=-1"):
        with pytest.raises(BadParameter):
            made("starter-organs", "--scale", "tiny", "--strategy", "fedprox", "--option", wrong)


@pytest.mark.parametrize("words", [("nothing",), ("starter", "--codec", "fp8")])
def test_what_is_no_job_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(IsletError, match=words[-1]):
        made(*words)


def test_the_example_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    args = parsed("provision", "--example")
    assert args.command(args) == 0
    assert "coordinators:" in capsys.readouterr().out
    with pytest.raises(BadParameter, match="--example"):
        commands.provision(parsed("provision"))


def test_a_kit_of_somebody_else_is_named(tmp_path: Path) -> None:
    args = parsed("status", "--kit", str(tmp_path))
    with pytest.raises(BadParameter, match="no coordinator's kit"):
        args.command(args)
    with pytest.raises(BadParameter, match="no coordinator's kit"), coordinator(tmp_path):
        pass


def test_a_change_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    ticker = Ticker(5)
    for state in (TRAINING, TRAINING, TOOK_PART):
        entry = Entry("c1", state, 4, None, None, 0, 0, {})
        turn = Round(2, 1, "2026-01-01T00:00:00", 1.0, (entry,), 0.0)
        history = History("j", "1", "fedavg", "r", (turn,), None, "none", ("c1",), ())
        ticker(Standing("1", "j", "running", False, history))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "running"
    assert [line.split("c1")[1].strip().split(":")[0] for line in lines[1:]] == [
        TRAINING,
        TOOK_PART,
    ]
    assert all("2/5" in line for line in lines[1:])


def test_a_study_has_its_own_job_and_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its phantoms take half a minute to make.
    monkeypatch.setattr(
        cohorts, "write_sites", lambda hospitals, out, _: {h.name: out / h.name for h in hospitals}
    )
    out = ("-o", str(tmp_path))
    found, homes = commands._phantom_sites(parsed("local", "wang2020", "--scale", "tiny", *out))
    assert [home.name for home in homes] == ["c1", "c2"]
    assert [home.data for home in homes] == [
        (tmp_path / "data" / "c1",),
        (tmp_path / "data" / "c2",),
    ]
    assert found.min_sites == 2
    with pytest.raises(BadParameter, match="--site"):
        commands.local(parsed("local", "wang2020", "--rounds", "3", *out))


@pytest.mark.parametrize("word", ["simulate", "local"])
def test_an_unknown_study_is_refused(tmp_path: Path, word: str) -> None:
    args = parsed(word, "starter", "-o", str(tmp_path))
    with pytest.raises(BadParameter, match="wang2020, segviz"):
        args.command(args)


def test_the_command_line_needs_no_engine_to_start() -> None:
    code = "import sys, federation.commands; print({'nvflare', 'torch'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(1), check=True
    )
    assert found.stdout == "set()\n"
