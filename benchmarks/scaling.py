"""Seconds of the whole pipeline against the number of slices of a CT: is it linear?

    python -m benchmarks.scaling [--slices 50 100 200 400 800] [--model NAME] [--repeats N]
                                 [--json FILE]

From a file to all files of the result, in this process with the model loaded; sizes run in turns.
The CTs are 512x512xN at 1.6 mm: one abdomen that goes on as its mirror image, so that a longer scan
holds as much in every slice and its network has as much to visit. The exponent is the slope of a
least squares line through the logarithms of medians against those of voxels, over the larger half
of the sizes, where what every CT costs alike counts least; the network and the rest have their own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cts import repeated
from benchmarks.frame import Bar, Result, arguments, finish, spread, turns
from benchmarks.overhead import Timed, pipeline
from imaging.errors import BadParameter
from models.store import default_store
from serving.engines import Engines
from serving.options import Options

SLICES = (50, 100, 200, 400, 800)
# Linear, and what a slope of so few points may be off.
EXPONENT_BAR = 1.1

# Seconds, one a turn, by number of slices.
Curve = Mapping[int, Sequence[float]]


def main() -> int:
    """Measure, print, write; exit code 1 when the bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cts = {slices: repeated(folder, slices) for slices in sorted(set(args.slices))}
        whole, network = measure(cts, args.model, args.repeats, folder)
    result = compared(whole, network, {"model": args.model, "repeats": args.repeats})
    return finish(result, args.json, lambda axes: _draw(axes, whole, network))


def measure(
    cts: Mapping[int, Path], model: str, repeats: int, folder: Path
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Seconds of the whole way and of the network in it, in turns, by number of slices.

    Args:
        cts: what ``imaging.read.read_volume`` takes, by number of slices.
        model: reference in the default store.
        repeats: counted turns.
        folder: for the files of the results.

    Raises:
        BadParameter: one size alone.
    """
    larger(cts)
    engines, options = Engines(default_store(), kind=Timed), Options(model=model)
    inside: list[float] = []

    def measured(ct: Path) -> Callable[[], float]:
        def whole() -> float:
            seconds, network = pipeline(ct, options, engines, folder)
            inside.append(network)
            return seconds

        return whole

    # The network's seconds are of the run just before.
    sides: dict[str, Callable[[], float]] = {}
    for slices, ct in cts.items():
        sides |= {f"{slices}": measured(ct), f"{slices} network": inside.pop}
    found = turns(sides, repeats)
    return {n: found[f"{n}"] for n in cts}, {n: found[f"{n} network"] for n in cts}


def compared(whole: Curve, network: Curve, facts: Mapping[str, object]) -> Result:
    """The exponents.

    Args:
        whole: of the pipeline.
        network: of the same runs.
        facts: to be written beside them.
    """
    rest = _rest(whole, network)
    return Result(
        "Seconds of the whole pipeline, by the slices of a CT of 512x512 pixels",
        {f"{slices} slices": seconds for slices, seconds in whole.items()},
        {
            "exponent": exponent(whole),
            "exponent_network": exponent(network),
            "exponent_rest": exponent(rest),
        },
        {"exponent": Bar(most=EXPONENT_BAR)},
        facts={
            **facts,
            "fitted_slices": larger(whole),
            "network_s": {slices: spread(seconds) for slices, seconds in network.items()},
            "rest_s": {slices: spread(seconds) for slices, seconds in rest.items()},
        },
    )


def exponent(curve: Curve) -> float:
    """The power of the number of slices that the seconds of the larger sizes go with.

    All slices have one size: their number stands for that of the voxels.
    """
    sizes = larger(curve)
    medians = [statistics.median(curve[slices]) for slices in sizes]
    return float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])


def larger(sizes: Iterable[int]) -> list[int]:
    """The larger half of the numbers of slices, the middle one among them; two at least.

    Raises:
        BadParameter: one size alone.
    """
    found = sorted(sizes)
    if len(found) < 2:
        raise BadParameter(f"{found} slices make no line; give two sizes or more.")
    return found[min(len(found) // 2, len(found) - 2) :]


def _rest(whole: Curve, network: Curve) -> dict[int, list[float]]:
    return {
        slices: [a - b for a, b in zip(seconds, network[slices], strict=True)]
        for slices, seconds in whole.items()
    }


def _draw(axes: Any, whole: Curve, network: Curve) -> None:
    """Medians with their spread, both axes from 0, and the straight line to the largest size."""
    curves = {"whole": whole, "network": network, "rest": _rest(whole, network)}
    for name, curve in curves.items():
        found = [spread(seconds) for seconds in curve.values()]
        low = [f["median"] - f["min"] for f in found]
        high = [f["max"] - f["median"] for f in found]
        medians = [f["median"] for f in found]
        axes.errorbar(list(curve), medians, yerr=(low, high), fmt="o-", capsize=3, label=name)
    last = max(whole)
    end = statistics.median(whole[last])
    axes.plot([0, last], [0, end], color="#333333", linestyle=":", label="linear")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("slices")
    axes.set_ylabel("s")
    axes.legend(fontsize=8)


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--slices", type=int, nargs="+", default=list(SLICES))
    parser.add_argument("--model", default="starter")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
