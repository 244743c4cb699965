"""What the service's whole answer takes: against mere reading and writing, and the usual pipeline.

    python -m benchmarks.end_to_end [CT ...] [--slices 119 300 700] [--reference] [--model NAME]
                                    [--repeats N] [--json FILE]

A service of its own answers over HTTP on loopback: a file is sent as it is, a folder of DICOM as a
zip that stores it. The floor is this process with the same cores: read the CT, deflate a label map,
write it. With ``--reference`` the same network segments the CT once more, in a process of its own
whose network is loaded and warm, as a user of nibabel, MONAI and PyTorch writes it
(:mod:`benchmarks.reference`); its peak memory is the process's own mark (VmHWM). All sides run in
turns; ratios are of medians, and end in the number of slices where there are several CTs.

``dice_with_reference`` is the least Dice of any organ of which the reference found more than 1 ml,
on the CT's own grid, each organ with its lesions, since a lesion's voxels may change sides with a
rounding. Compared is the label map of the service as it answers ``doubtful=keep``: nothing left out
for little confidence, but parts cleaned and edges placed, which the reference does not do; and the
reference sees smaller patches, weighs all voxels of a patch alike, and resamples without averaging.

``--slices`` makes 512x512xN phantoms; without any CT one of 119 slices is made.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import nibabel
import numpy as np

from benchmarks.beside import Beside, ProcessLost
from benchmarks.concurrency import post, service
from benchmarks.cts import phantom
from benchmarks.frame import Bar, Result, arguments, finish, ratio, turns
from benchmarks.memory import memory_mb
from benchmarks.overhead import read_and_write
from imaging.errors import BadParameter
from imaging.read import read_volume
from imaging.volume import to_canonical
from models.labels import STRUCTURES
from serving.outputs import LABELS, REPORT
from training.metrics import dice, mask_of

FLOOR_BAR = 2.5
REFERENCE_BAR = 12.0
DICE_BAR = 0.98

_FLOOR, _ANSWER, _REFERENCE = "reading and writing alone", "the answer", "the reference pipeline"
_TRIFLE_ML = 1.0


@dataclass(frozen=True)
class Visit:
    """What one CT took.

    Attributes:
        sides: seconds, a value a turn.
        steps: medians of the seconds that the reports say, by step.
        dice: of each organ that the reference found; empty without a reference.
        reference_peak_mb: the most memory that the reference's process took.
        failed: why there is nothing to compare with, where there should be.
    """

    sides: Mapping[str, Sequence[float]]
    steps: Mapping[str, float]
    dice: Mapping[str, float] = field(default_factory=dict)
    reference_peak_mb: float | None = None
    failed: str | None = None


class Asker:
    """Sends one CT to a service, again and again.

    Args:
        client: of the service.
        ct: a file, or a folder of DICOM files.

    Attributes:
        steps: the seconds of each answer by step, as its report says.
    """

    def __init__(self, client: httpx.Client, ct: Path) -> None:
        self.steps: list[dict[str, float]] = []
        self._client, self._body = client, _sent(ct)

    def seconds(self) -> float:
        """From sending the CT to having all of the answer."""
        start = time.perf_counter()
        answer = post(self._client, self._body)
        seconds = time.perf_counter() - start
        self.steps.append(json.loads(_file_in(answer, REPORT))["seconds"])
        return seconds

    def labels(self) -> bytes:
        """The label map, a .nii.gz, with what has little confidence too."""
        return _file_in(post(self._client, self._body, doubtful="keep"), LABELS)


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed, or a reference gave nothing."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [phantom(folder, slices) for slices in args.slices]
        cts = by_slices([*args.cts, *made] or [phantom(folder)])
        command = [sys.executable, "-m", "benchmarks.reference", "--model", args.model]
        with service(args.model, folder) as client:
            visits = {
                slices: visit(ct, client, args.repeats, folder, command if args.reference else ())
                for slices, ct in cts.items()
            }
    facts = {
        "model": args.model,
        "repeats": args.repeats,
        "cts": {slices: ct.name for slices, ct in cts.items()},
    }
    code = finish(compared(visits, facts), args.json)
    for slices, found in visits.items():
        print("\n".join(_lines(slices, found)))
    return code or int(any(found.failed for found in visits.values()))


def by_slices(cts: Sequence[Path]) -> dict[int, Path]:
    """CTs by the number of slices from feet to head.

    Raises:
        BadParameter: two have as many.
    """
    found: dict[int, Path] = {}
    for ct in cts:
        slices = to_canonical(read_volume(ct)).geometry.shape[0]
        if slices in found:
            raise BadParameter(
                f"{found[slices].name} and {ct.name} both have {slices} slices, by which figures "
                "are named; measure them in runs of their own."
            )
        found[slices] = ct
    return found


def visit(
    ct: Path,
    client: httpx.Client,
    repeats: int,
    folder: Path,
    reference: Sequence[str] = (),
) -> Visit:
    """All sides of one CT in turns, then how far the masks agree.

    Args:
        ct: a file, or a folder of DICOM files.
        client: of a service.
        repeats: counted turns.
        folder: for what is written.
        reference: the command line of a process that segments like :mod:`benchmarks.reference`;
            empty for none.

    Raises:
        BadParameter: a reference is asked for, and the CT is not one NIfTI file.
    """
    asker = Asker(client, ct)
    sides = {_FLOOR: lambda: read_and_write(ct, folder), _ANSWER: asker.seconds}
    if not reference:
        return Visit(turns(sides, repeats), _medians(asker.steps[-repeats:]))
    if not ct.name.endswith((".nii", ".nii.gz")):
        raise BadParameter(f"The reference pipeline reads one .nii or .nii.gz file, not {ct.name}.")
    ours, theirs = folder / "ours.nii.gz", folder / "theirs.nii.gz"
    request = {"ct": str(ct.resolve()), "out": str(theirs)}
    with Beside(reference, folder / "reference.log") as beside:
        other = {_REFERENCE: lambda: float(beside.ask(request)["seconds"])}
        try:
            found = turns({**sides, **other}, repeats)
        except ProcessLost as lost:
            found = turns(sides, repeats)
            return Visit(found, _medians(asker.steps[-repeats:]), failed=str(lost))
        peak_mb = memory_mb(beside.pid, "VmHWM")
    steps = _medians(asker.steps[-repeats:])
    ours.write_bytes(asker.labels())
    same = agreement(ours, theirs)
    nothing = None if same else f"The reference found no organ of {_TRIFLE_ML:g} ml."
    return Visit(found, steps, same, peak_mb, nothing)


def agreement(ours: Path, theirs: Path) -> dict[str, float]:
    """Dice of every organ of which their label map has more than 1 ml, lesions in it.

    Args:
        ours, theirs: NIfTI label maps, values of ``models.labels``.

    Raises:
        BadParameter: they lie on different grids.
    """
    both = [nibabel.load(path) for path in (ours, theirs)]
    grids = [(image.shape, image.affine) for image in both]
    if grids[0][0] != grids[1][0] or not np.allclose(grids[0][1], grids[1][1], atol=1e-3):
        raise BadParameter(
            f"The label maps lie on different grids: {grids[0][0]} and {grids[1][0]} voxels, or "
            "other affines; compare those of one CT."
        )
    found, reference = (np.asarray(image.dataobj).astype(np.uint8) for image in both)
    ml = abs(float(np.linalg.det(grids[1][1][:3, :3]))) / 1000
    organs = [structure.name for structure in STRUCTURES if structure.parent is None]
    return {
        organ: dice(mask_of(found, organ), mask_of(reference, organ))
        for organ in organs
        if np.count_nonzero(mask_of(reference, organ)) * ml > _TRIFLE_ML
    }


def compared(visits: Mapping[int, Visit], facts: Mapping[str, object]) -> Result:
    """Ratios and bars of every CT.

    Args:
        visits: by number of slices.
        facts: to be written beside them.
    """
    sides: dict[str, Sequence[float]] = {}
    ratios: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for slices, found in visits.items():
        end = f"_{slices}" if len(visits) > 1 else ""
        sides |= {f"{name}, {slices} slices": values for name, values in found.sides.items()}
        ratios[f"answer_to_floor{end}"] = ratio(found.sides, _ANSWER, _FLOOR)
        bars[f"answer_to_floor{end}"] = Bar(most=FLOOR_BAR)
        if _REFERENCE in found.sides:
            ratios[f"reference_to_answer{end}"] = ratio(found.sides, _REFERENCE, _ANSWER)
            bars[f"reference_to_answer{end}"] = Bar(least=REFERENCE_BAR)
        if found.dice:
            ratios[f"dice_with_reference{end}"] = min(found.dice.values())
            bars[f"dice_with_reference{end}"] = Bar(least=DICE_BAR)
    more = {
        "steps_s": {slices: dict(found.steps) for slices, found in visits.items()},
        "dice": {slices: dict(found.dice) for slices, found in visits.items()},
        "reference_peak_mb": {slices: found.reference_peak_mb for slices, found in visits.items()},
        "reference_failed": {slices: found.failed for slices, found in visits.items()},
    }
    return Result(
        "What the service's whole answer takes", sides, ratios, bars, facts={**facts, **more}
    )


def _lines(slices: int, found: Visit) -> list[str]:
    steps = ", ".join(f"{step} {seconds:.3f}" for step, seconds in found.steps.items())
    lines = [f"{slices} slices, of the answer: {steps}"]
    if found.dice:
        said = ", ".join(f"{organ} {value:.3f}" for organ, value in found.dice.items())
        lines.append(f"{slices} slices, Dice with the reference: {said}")
    if found.reference_peak_mb is not None:
        lines.append(f"{slices} slices, the reference took {found.reference_peak_mb:.0f} MB")
    if found.failed:
        lines.append(f"{slices} slices, NO REFERENCE. {found.failed}")
    return lines


def _medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(s.get(name, 0.0) for s in steps) for name in steps[-1]}


def _file_in(answer: httpx.Response, name: str) -> bytes:
    answer.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return archive.read(name)


def _sent(ct: Path) -> bytes:
    """A file's bytes; a folder's files in a zip."""
    if ct.is_file():
        return ct.read_bytes()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in ct.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(ct))
    return held.getvalue()


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=7)
    parser.add_argument("cts", type=Path, nargs="*", metavar="CT")
    parser.add_argument("--slices", type=int, nargs="+", default=[], help="of phantoms to make")
    parser.add_argument("--reference", action="store_true", help="compare with the usual pipeline")
    parser.add_argument("--model", default="starter")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
