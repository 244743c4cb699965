"""What every benchmark does alike: turns, facts of the machine, ratios with their bars, a plot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from imaging.threads import usable_cores

_LIBRARIES = ("numpy", "onnxruntime", "openvino", "torch")


@dataclass(frozen=True)
class Bar:
    """What a ratio must reach.

    Attributes:
        least: the ratio must be this or more, where given.
        most: this or less, where given.
    """

    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        return (self.least is None or ratio >= self.least) and (
            self.most is None or ratio <= self.most
        )

    def __str__(self) -> str:
        ends = (("at least", self.least), ("at most", self.most))
        return ", ".join(f"{word} {value:g}" for word, value in ends if value is not None)


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        question: what was asked, a line.
        sides: measured values of each side, one a turn.
        unit: of those.
        ratios: by name, ``A_to_B`` or ``A_times_B``; of medians of one run.
        bars: of some of them, by the same names.
        facts: all else, JSON-serialisable.
        line: a value that the plot draws across all sides, such as a roofline, with its name.
    """

    question: str
    sides: Mapping[str, Sequence[float]]
    ratios: Mapping[str, float]
    bars: Mapping[str, Bar] = field(default_factory=dict)
    unit: str = "s"
    facts: Mapping[str, Any] = field(default_factory=dict)
    line: tuple[str, float] | None = None

    def missed(self) -> list[str]:
        """Names of the ratios that do not reach their bars."""
        return [name for name, bar in self.bars.items() if not bar.met(self.ratios[name])]

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "question": self.question,
            "machine": machine(),
            "unit": self.unit,
            "sides": {name: spread(values) for name, values in self.sides.items()},
            "ratios": dict(self.ratios),
            "bars": {
                name: {k: v for k, v in (("least", bar.least), ("most", bar.most)) if v is not None}
                for name, bar in self.bars.items()
            },
            "missed": self.missed(),
            **({"line": {"name": self.line[0], "value": self.line[1]}} if self.line else {}),
            **self.facts,
        }

    def lines(self) -> list[str]:
        """The result as text."""
        found = [self.question]
        for name, values in self.sides.items():
            low, middle, high = (spread(values)[key] for key in ("min", "median", "max"))
            found.append(f"  {name:<34} {middle:9.3f} {self.unit}  ({low:.3f} to {high:.3f})")
        if self.line:
            found.append(f"  {self.line[0]:<34} {self.line[1]:9.3f} {self.unit}")
        for name, ratio in self.ratios.items():
            said = ""
            if name in self.bars:
                bar = self.bars[name]
                said = f"  ({bar}: {'met' if bar.met(ratio) else 'MISSED'})"
            found.append(f"  ratio {name:<28} {ratio:9.2f}{said}")
        return found


def turns(
    sides: Mapping[str, Callable[[], float]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measure all sides in turns, A B A B: what disturbs the machine disturbs all of them.

    Args:
        sides: what each measures, once a call.
        repeats: counted turns.
        warm_up: begin with a turn that is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + warm_up):
        for name, measure in sides.items():
            value = measure()
            if turn >= warm_up:
                found[name].append(value)
    return found


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """A side of :func:`turns`: the seconds that a call takes."""

    def measure() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return measure


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratio(sides: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """The median of one side over another's."""
    return statistics.median(sides[above]) / statistics.median(sides[below])


def machine() -> dict[str, Any]:
    """What the figures depend on; the load is that of the minute before."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(pages / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
    }


def arguments(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="counted turns")
    parser.add_argument("--json", type=Path, help="write the figures here, a plot beside it")
    return parser


def finish(result: Result, path: Path | None, draw: Callable[[Any], None] | None = None) -> int:
    """Print; write JSON and a plot beside it where asked.

    Args:
        result: what was found.
        path: of the JSON; the plot has its name with ``.png``.
        draw: draws on matplotlib axes; bars of all sides where not given.

    Returns:
        1 where a bar is missed, else 0.
    """
    print("\n".join(result.lines()))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result.to_json(), indent=1) + "\n")
        _plot(path.with_suffix(".png"), result, draw)
    return int(bool(result.missed()))


def _plot(path: Path, result: Result, draw: Callable[[Any], None] | None) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.45 * max(len(result.sides), 6) + 1.2))
    if draw is None:
        _draw_bars(axes, result)
    else:
        draw(axes)
    axes.set_title(result.question, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_bars(axes: Any, result: Result) -> None:
    """A bar a side from 0 to its median, with its spread; logarithmic where they differ much."""
    names = list(result.sides)[::-1]
    found = [spread(result.sides[name]) for name in names]
    medians = [f["median"] for f in found]
    low = [f["median"] - f["min"] for f in found]
    high = [f["max"] - f["median"] for f in found]
    axes.barh(names, medians, xerr=(low, high), color="#4c78a8", ecolor="#333333", capsize=3)
    shown = medians
    if result.line is not None:
        axes.axvline(result.line[1], color="#e45756", linestyle="--", label=result.line[0])
        axes.legend(fontsize=8)
        shown = [*medians, result.line[1]]
    if max(shown) > 20 * min(shown):
        axes.set_xscale("log")
    axes.set_xlabel(result.unit)
    axes.tick_params(labelsize=8)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
