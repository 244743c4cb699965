"""What a federation costs beside the training: bytes, the server's memory, seconds a round.

    python -m benchmarks.federation [--sites 4 32] [--local] [--repeats N] [--json FILE]

``wire``: MoNet (403,556 weights) between two phantom sites, differences in float32 and in 8 bits,
the same seeds: bytes of every message and Dice of the last global model on phantoms that no site
has. ``memory``: the server's peak with few and with many sites, each number in a process of its
own; what the server itself holds is counted apart, by tracemalloc. ``overhead``: seconds of a round
in which no site trains or scores; with ``--local`` also through FLARE over mutual TLS.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import Result, arguments, finish
from federation.conduct import conduct_rounds
from federation.coordinator import Coordinator
from federation.home import Home
from federation.job import Job, scheduled
from federation.parts import put
from federation.policy import FACTS, Policy
from federation.progress import TOOK_PART, Entry, History
from federation.simulate import Lanes
from imaging.threads import usable_cores
from models.labels import BY_NAME
from training.evaluate import score_case
from training.package import manifest_of, torch_scorer
from training.phantoms.sets import write_decathlon
from training.recipe import Recipe
from training.recipes import recipe as named_recipe
from training.reproduce.arms import phantoms
from training.statistics import bootstrap_difference
from training.trainer import initial_network

# The organ that short trainings find best: a difference between codecs would show.
_ORGAN = "liver"
_SHAPE = (40, 96, 96)
_STYLES = ("a-thin-portal", "b-thick-portal")
_TEST_STYLES = ("a-thin-portal", "e-late-sharp")
_TRAIN, _TEST = 5, 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        repeats: seeds of the comparison of codecs.
        rounds, steps: of a job, and of a site in a round.
        sites: numbers of sites whose server is weighed.
        local: also through FLARE.
    """

    repeats: int = 3
    rounds: int = 10
    steps: int = 30
    sites: tuple[int, ...] = (4, 32)
    local: bool = False


def main() -> int:
    """Measure, print, write."""
    args = _arguments()
    if args.server_of:
        print(json.dumps(_server_of(args.server_of)))
        return 0
    settings = Settings(args.repeats, args.rounds, args.steps, tuple(args.sites), args.local)
    result = measure(settings)
    print(as_markdown(result.facts))
    return finish(result, args.json)


def measure(settings: Settings) -> Result:
    """The overhead of rounds in seconds, and all other figures."""
    wire = _wire(settings)
    memory = {count: _weighed(count) for count in settings.sites}
    overhead = {"simulated": wire.pop("overhead_s")}
    if settings.local:
        overhead["FLARE, mutual TLS"] = _through_flare(settings)
    few, many = min(memory), max(memory)
    least, most = memory[few], memory[many]
    return Result(
        "A federation's round, beside training and scoring",
        overhead,
        {
            "bytes_up_fp32_to_int8": wire["fp32"]["up"] / wire["int8"]["up"],
            "bytes_down_fp32_to_int8": wire["fp32"]["down"] / wire["int8"]["down"],
            f"peak_{many}_to_{few}_sites": most["peak_mb"] / least["peak_mb"],
            f"arrays_{many}_to_{few}_sites": most["arrays_mb"] / least["arrays_mb"],
        },
        facts={"settings": dataclasses.asdict(settings), "wire": wire, "memory": memory},
    )


def as_markdown(facts: Mapping[str, Any]) -> str:
    """What is known of codecs and of servers, as tables."""
    wire = facts["wire"]
    lines = ["| codec | up, bytes | down, bytes | Dice, phantoms |", "|---|---|---|---|"]
    for codec in ("fp32", "int8"):
        row = wire[codec]
        lines.append(f"| {codec} | {row['up']:,} | {row['down']:,} | {np.mean(row['dice']):.3f} |")
    low, high = wire["interval"]
    lines += [
        "",
        f"int8 minus fp32: {wire['difference']:+.4f} ({low:+.4f} to {high:+.4f}, "
        f"{len(wire['int8']['dice'])} pairs)",
        "",
        "| sites | server's peak, MB | its arrays, MB | seconds a round |",
        "|---|---|---|---|",
    ]
    for count, row in facts["memory"].items():
        figures = f"{row['peak_mb']:.0f} | {row['arrays_mb']:.2f} | {row['round_s']:.2f}"
        lines.append(f"| {count} | {figures} |")
    return "\n".join(lines)


def _wire(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {c: {"up": 0, "down": 0, "dice": []} for c in ("fp32", "int8")}
    overhead: list[float] = []
    for seed in range(settings.repeats):
        tests = phantoms(_TEST, 10_000 * (seed + 1) + 5000, _TEST_STYLES, shape=_SHAPE)
        with tempfile.TemporaryDirectory() as folder:
            homes = _homes(Path(folder), 2, seed)
            for codec in ("fp32", "int8"):
                made = _job(settings, codec, seed)
                server = _run(made, homes, Path(folder) / codec)
                entries = _entries(server.history())
                row = found[codec]
                # The first round sends whole weights down; afterwards differences travel.
                later = [e for number, e in entries if number > 1]
                row["up"] = max(row["up"], *(e.up_bytes for _, e in entries))
                row["down"] = max(row["down"], *(e.down_bytes for e in later))
                row["first_down"] = max(e.down_bytes for number, e in entries if number == 1)
                row["dice"] += _dice(server, made.recipe, tests)
                overhead += [r.overhead_s for r in server.history().rounds]
    pair = found["int8"]["dice"], found["fp32"]["dice"]
    found["difference"] = float(np.mean(np.asarray(pair[0]) - np.asarray(pair[1])))
    found["interval"] = bootstrap_difference(*pair, seed=0)
    found["overhead_s"] = overhead
    return found


def _run(made: Job, homes: Sequence[Home], folder: Path) -> Coordinator:
    server = Coordinator(made, folder)
    own = [dataclasses.replace(h, folder=h.folder / made.codec) for h in homes]
    with Lanes(made, own, min(len(own), usable_cores())) as lanes:
        conduct_rounds(server, lanes)
    return server


def _entries(history: History) -> list[tuple[int, Entry]]:
    """The number of the round with each entry of a site that took part."""
    return [(r.number, e) for r in history.rounds for e in r.entries if e.state == TOOK_PART]


def _dice(server: Coordinator, recipe: Recipe, tests: Sequence[Any]) -> list[float]:
    network = initial_network(recipe)
    put(network, server.reference)
    manifest, scorer = manifest_of(recipe), torch_scorer(network)
    return [score.dice for case in tests for score in score_case(case, manifest, scorer)]


def _recipe(seed: int) -> Recipe:
    """MoNet at its published width, brought to find an organ in few steps."""
    tiny = named_recipe("monet", "tiny")
    return dataclasses.replace(
        tiny,
        outputs=(_ORGAN,),
        slab=0,
        options={**tiny.options, "prior": 0.1, "momentum": 0.1},
        optimizer=dataclasses.replace(tiny.optimizer, lr=2e-3, schedule="cosine"),
        seed=seed,
    )


def _job(settings: Settings, codec: str, seed: int) -> Job:
    recipe = dataclasses.replace(_recipe(seed), steps_per_epoch=settings.steps)
    return Job(
        name=f"monet-{codec}",
        recipe=scheduled(recipe, settings.rounds, 1),
        rounds=settings.rounds,
        local_epochs=1,
        codec=codec,
        score_every=settings.rounds,
    )


def _homes(folder: Path, count: int, seed: int, cases: int = _TRAIN) -> list[Home]:
    homes = []
    for i in range(count):
        style = _STYLES[i % len(_STYLES)]
        first = 10_000 * (seed + 1) + 100 * i
        made = phantoms(cases, first, (style,), shape=_SHAPE, structures=((_ORGAN,),))
        data = folder / f"c{i}" / "data"
        meta = {
            "name": "islet phantoms",
            "modality": {"0": "CT"},
            "labels": {"0": "background", str(BY_NAME[_ORGAN].value): _ORGAN},
            "islet_annotated": [_ORGAN],
        }
        write_decathlon(data, ((c.name, c.image, c.labels) for c in made), meta)
        homes.append(
            Home(
                f"c{i}",
                folder / f"c{i}" / "state",
                (data,),
                folder / f"c{i}" / "store",
                Policy(may_leave=FACTS),
            )
        )
    return homes


def _weighed(count: int) -> dict[str, float]:
    """The server of so many sites, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.federation", "--server-of", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _server_of(count: int) -> dict[str, float]:
    """Two rounds with a step each; sites share one phantom, they are many all the same."""
    settings = Settings(rounds=2, steps=1)
    with tempfile.TemporaryDirectory() as folder:
        one = _homes(Path(folder), 1, seed=0, cases=1)[0]
        homes = [
            dataclasses.replace(one, name=f"c{i}", folder=Path(folder) / f"c{i}")
            for i in range(count)
        ]
        tracemalloc.start()
        server = _run(_job(settings, "int8", 0), homes, Path(folder) / "server")
        arrays = tracemalloc.get_traced_memory()[1]
        seconds = [r.seconds for r in server.history().rounds]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": peak, "arrays_mb": arrays / 2**20, "round_s": seconds[-1]}


def _through_flare(settings: Settings) -> list[float]:
    from federation.flare.local import run_local

    with tempfile.TemporaryDirectory() as folder:
        homes = _homes(Path(folder), 2, seed=0)
        out = Path(folder) / "out"
        run_local(_job(settings, "int8", 0), homes, out)
        history = History.load(next(out.rglob("rounds.json")))
    return [r.overhead_s for r in history.rounds]


def _arguments() -> argparse.Namespace:
    default = Settings()
    parser = arguments(__doc__, default.repeats)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--steps", type=int, default=default.steps, help="of a site in a round")
    parser.add_argument("--sites", type=int, nargs="+", default=default.sites)
    parser.add_argument("--local", action="store_true", help="also through FLARE")
    parser.add_argument("--server-of", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
