"""Islet's whole answer against nnU-Net v2's own predictor, on one CT and this CPU.

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/peers.txt
    python -m benchmarks.peers CT --python PEERS/bin/python [--whole] [--model NAME] [--repeats N]
                                  [--json FILE]

Islet's side is the pipeline that the command line and the service's workers run
(``serving.segment``: CT file to label map, masks, picture and report), in this process, its model
loaded. Each peer is a process of the other Python, its network loaded, from the CT's file to the
label map's, with nnU-Net's defaults but without mirroring, which only makes it faster
(:mod:`benchmarks.peer_nnunet`):

* ``nnunet``: its default network (PlainConvUNet of six stages, 32 to 320 features) for the
  starter's structures at 1.5 mm with patches of 128x128x128, the setting of TotalSegmentator's full
  resolution; logits are resampled to the CT's grid.
* ``totalsegmentator_3mm``: TotalSegmentator v2's ``--fast``, 3 mm with patches of 112x112x128 and
  118 channels, as we read its plans; the label map is brought back, no logits.

A whole run of a peer may take an hour. What runs in turns with Islet is therefore one patch of its
network; its reading, preparing, bringing back and writing are measured once, on the CT; and its
seconds are ESTIMATED as those and one patch's times the number of patches that nnU-Net itself
counts on that CT. ``--whole`` runs all of it instead. The facts say which, for each peer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.beside import Beside
from benchmarks.frame import Bar, Result, arguments, finish, ratio, spread, turns
from benchmarks.memory import memory_mb
from benchmarks.overhead import Timed, pipeline
from imaging.errors import BadParameter
from models.store import default_store
from serving.engines import Engines
from serving.options import Options

# By how much Islet must be faster, by peer.
BARS = {"nnunet": 100.0, "totalsegmentator_3mm": 10.0}

_OURS = "islet"


class Peer:
    """A process that answers as :mod:`benchmarks.peer_nnunet` does.

    Args:
        beside: the process.
        whole: measure all of it every time, not a patch of its network.

    Attributes:
        about: what it said of itself.
        patch_s: seconds of each patch that was measured.
    """

    def __init__(self, beside: Beside, whole: bool) -> None:
        self._beside, self._whole = beside, whole
        self.about = beside.ask({"do": "about"})
        self.patch_s: list[float] = []

    def seconds(self) -> float:
        """Of all of it: measured, or estimated from a patch that is measured now."""
        if self._whole:
            return float(self._beside.ask({"do": "whole"})["seconds"])
        patch = float(self._beside.ask({"do": "patch"})["seconds"])
        self.patch_s.append(patch)
        around: float = self.about["before_s"] + self.about["after_s"]
        return around + patch * int(self.about["patches"])

    def facts(self, repeats: int) -> dict[str, Any]:
        """What it said of itself, how its seconds came about, and its peak memory."""
        patches = {} if self._whole else {"patch_s": spread(self.patch_s[-repeats:])}
        peak = {"peak_mb": memory_mb(self._beside.pid, "VmHWM")}
        return {"estimated": not self._whole, **self.about, **patches, **peak}


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    ct: Path = args.ct.resolve()
    if not ct.name.endswith((".nii", ".nii.gz")):
        raise BadParameter(f"nnU-Net reads one .nii or .nii.gz file, not {ct.name}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engines, options = Engines(default_store(), kind=Timed), Options(model=args.model)
        commands = {
            peer: [
                # Not resolved: an environment's Python is a link, and found by where that lies.
                *(str(args.python.absolute()), "-m", "benchmarks.peer_nnunet"),
                *(peer, str(ct), str(folder / peer)),
            ]
            for peer in BARS
        }
        result = measure(
            lambda: pipeline(ct, options, engines, folder)[0],
            commands,
            args.whole,
            args.repeats,
            folder,
            {"ct": ct.name, "model": args.model, "repeats": args.repeats},
        )
    code = finish(result, args.json)
    print("\n".join(_lines(result.facts["peers"])))
    return code


def measure(
    ours: Callable[[], float],
    commands: Mapping[str, Sequence[str]],
    whole: bool,
    repeats: int,
    folder: Path,
    facts: Mapping[str, Any],
) -> Result:
    """Islet and its peers in turns.

    Args:
        ours: the seconds of one answer of Islet.
        commands: of the peers' processes, by their names in :data:`BARS`.
        whole: run all of the peers, not a patch of their networks.
        repeats: counted turns; whole runs have none that is not counted.
        folder: for the processes' logs.
        facts: to be written beside the figures.

    Raises:
        ProcessLost: a peer's process ended.
    """
    with ExitStack() as stack:
        peers = {
            name: Peer(stack.enter_context(Beside(command, folder / f"{name}.log")), whole)
            for name, command in commands.items()
        }
        named = {name: name if whole else f"{name}, estimated" for name in peers}
        ours()
        sides = turns(
            {_OURS: ours, **{named[name]: peer.seconds for name, peer in peers.items()}},
            repeats,
            warm_up=not whole,
        )
        described = {name: peer.facts(repeats) for name, peer in peers.items()}
    return Result(
        "Islet's whole answer against nnU-Net's predictor",
        sides,
        {f"{name}_to_ours": ratio(sides, named[name], _OURS) for name in peers},
        {f"{name}_to_ours": Bar(least=BARS[name]) for name in peers},
        facts={**facts, "peers": described},
    )


def _lines(peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for name, found in peers.items():
        around = f"{found['before_s']:.1f} s before the network, {found['after_s']:.1f} s after it"
        patch = f", {found['patch_s']['median']:.2f} s each" if found["estimated"] else ""
        how = "ESTIMATED" if found["estimated"] else "run whole"
        lines.append(
            f"{name} {how}: {around}, {found['patches']} patches{patch}; "
            f"{found['parameters'] / 1e6:.1f} M parameters; {found['peak_mb']:.0f} MB"
        )
    return lines


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("ct", type=Path, help="a .nii or .nii.gz file")
    parser.add_argument(
        "--python", type=Path, required=True, help="with benchmarks/peers.txt installed"
    )
    parser.add_argument("--whole", action="store_true", help="run all of the peers; takes an hour")
    parser.add_argument("--model", default="starter")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
