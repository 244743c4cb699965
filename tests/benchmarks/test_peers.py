"""Islet against its peers: what is estimated, from what, and what is said of it."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.beside import ProcessLost
from benchmarks.frame import Result
from benchmarks.peers import BARS, measure
from imaging.errors import BadParameter

# A network of 4 s a patch, whose patches grow slower from one to the next.
CHILD = """
    import sys
    sys.path.insert(0, ".")
    from benchmarks.beside import answer

    asked = {"patch": 0, "whole": 0}

    def work(request):
        if request["do"] == "about":
            return {"before_s": 20.0, "after_s": 30.0, "patches": PATCHES, "parameters": 2000000}
        asked[request["do"]] += 1
        return {"seconds": 4.0 * asked["patch"] + 500.0 * asked["whole"]}

    answer(work)
"""


def commands(folder: Path, **patches: int) -> dict[str, list[str]]:
    found = {}
    for name, count in patches.items():
        script = folder / f"{name}.py"
        script.write_text(textwrap.dedent(CHILD).replace("PATCHES", str(count)))
        found[name] = [sys.executable, str(script)]
    return found


def measured(folder: Path, whole: bool) -> Result:
    children = commands(folder, nnunet=12, totalsegmentator_3mm=2)
    return measure(lambda: 1.0, children, whole, 3, folder, {"ct": "ct.nii.gz"})


def test_a_patch_is_measured_and_the_whole_estimated(tmp_path: Path) -> None:
    result = measured(tmp_path, whole=False)
    # The first patch warms up; the others take 8, 12 and 16 s.
    assert result.sides == {
        "islet": [1.0, 1.0, 1.0],
        "nnunet, estimated": [146.0, 194.0, 242.0],
        "totalsegmentator_3mm, estimated": [66.0, 74.0, 82.0],
    }
    assert result.ratios == {"nnunet_to_ours": 194.0, "totalsegmentator_3mm_to_ours": 74.0}
    assert not result.missed()
    found = json.loads(json.dumps(result.to_json()))["peers"]["nnunet"]
    assert found["estimated"] is True
    assert found["patches"] == 12
    assert found["patch_s"] == {"min": 8.0, "median": 12.0, "max": 16.0}
    assert (found["before_s"], found["after_s"]) == (20.0, 30.0)
    assert found["peak_mb"] > 5


def test_a_whole_run_is_none_that_is_estimated(tmp_path: Path) -> None:
    result = measured(tmp_path, whole=True)
    assert result.sides["nnunet"] == [500.0, 1000.0, 1500.0]
    assert result.facts["peers"]["nnunet"]["estimated"] is False
    assert "patch_s" not in result.facts["peers"]["nnunet"]


def test_islet_and_its_peers_take_turns(tmp_path: Path) -> None:
    turns: list[float] = []

    def ours() -> float:
        turns.append(1.0 + len(turns))
        return turns[-1]

    result = measure(ours, commands(tmp_path, nnunet=1), False, 2, tmp_path, {})
    # Once before all of it, once in the turn that warms up.
    assert result.sides["islet"] == [3.0, 4.0]
    assert len(result.sides["nnunet, estimated"]) == 2


def test_a_peer_that_is_not_fast_enough_to_matter_is_missed(tmp_path: Path) -> None:
    children = commands(tmp_path, nnunet=12, totalsegmentator_3mm=2)
    result = measure(lambda: 5.0, children, False, 1, tmp_path, {})
    assert result.missed() == ["nnunet_to_ours"]
    assert result.bars["nnunet_to_ours"].least == BARS["nnunet"] == 100
    assert result.bars["totalsegmentator_3mm_to_ours"].least == 10


def test_a_python_without_nnunet_says_so(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text("import nnunetv2_is_not_here")
    children = {"nnunet": [sys.executable, str(script)]}
    with pytest.raises(ProcessLost, match="No module named 'nnunetv2_is_not_here'"):
        measure(lambda: 1.0, children, False, 1, tmp_path, {})


def test_a_series_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["it", str(tmp_path), "--python", sys.executable])
    with pytest.raises(BadParameter, match=r"one \.nii or \.nii\.gz file"):
        peers.main()


def test_what_peers_need_fits_what_islet_needs() -> None:
    """Both sides run the same torch, and pip finds no conflict with the constraints."""
    root = Path(peers.__file__).parent
    wanted = dict(re.findall(r"^([\w-]+)==(\S+)$", (root / "peers.txt").read_text(), re.MULTILINE))
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", (root.parent / "constraints.txt").read_text(), re.MULTILINE
        )
    )
    assert "nnunetv2" in wanted
    assert "nnunetv2" not in pinned
    assert wanted["torch"] == version("torch").split("+")[0]
    assert all(wanted[name] == pinned[name] for name in wanted.keys() & pinned.keys())
