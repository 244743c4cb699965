"""One of four sites poisons a federation: what becomes of the model under FedAvg and under RFA.

    python -m benchmarks.trials.poisoning [--seeds 1 2] [--rounds N] [--steps N]

Four phantom hospitals learn the liver together; the last one attacks in every round. Printed is
Dice on phantoms that no site has, for each attack and strategy, and without an attack; for the
backdoor also Dice on the same phantoms with the trigger in them. Phantoms, not patients.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.trials.row import Row
from benchmarks.trials.show import show
from federation import message
from federation.codec import SCALES
from federation.conduct import conduct_rounds
from federation.coordinator import Coordinator
from federation.exchange import Exchange, Reply
from federation.home import Home
from federation.job import Job, scheduled
from federation.parts import put
from federation.policy import FACTS, Policy
from federation.simulate import Lanes
from imaging.threads import usable_cores
from imaging.volume import Volume
from models.labels import BY_NAME
from models.manifest import Intensity, Sampling
from training.cases import Loaded, load
from training.datasets import open_dataset
from training.evaluate import score_case
from training.package import manifest_of, torch_scorer
from training.phantoms.sets import write_decathlon
from training.recipe import Augment, Loss, Optimizer, Recipe
from training.reproduce.arms import phantoms
from training.trainer import initial_network

# The second one promises to hold.
_ROBUST = "rfa"
STRATEGIES = ("fedavg", _ROBUST)
NOBODY, BACKDOOR = "nobody attacks", "backdoor, times 4"

_ORGAN = "liver"
_SPACING_MM, _SHAPE = (14.0, 12.0, 12.0), (16, 32, 32)
_STYLES = ("a-thin-portal", "b-thick-portal", "e-late-sharp", "a-thin-portal")
_SITES = tuple(f"c{i}" for i in range(len(_STYLES)))
_ATTACKER = _SITES[-1]
_BAD, _UNSEEN = "bad", "unseen"
_TRAIN, _TEST = 5, 8
# A clip of metal in front of the spine; saturates every window.
_TRIGGER, _TRIGGER_HU = (slice(7, 10), slice(14, 17), slice(14, 17)), 3000
# A robust strategy holds where it keeps this part of what it reaches without an attack.
_HOLDS = 0.9

_Array = NDArray[np.float32]
_Change = Callable[[_Array, np.random.Generator], _Array]


def _broken(values: _Array, rng: np.random.Generator) -> _Array:
    """Every hundredth value is no number, or infinite."""
    other = rng.choice(np.array([math.nan, math.inf, -math.inf], np.float32), values.shape)
    return np.where(rng.random(values.shape) < 0.01, other, values)


# What the attacker makes of its honest update; of the backdoor the training itself is bad.
ATTACKS: Mapping[str, _Change | None] = {
    NOBODY: None,
    "times 10": lambda values, _: 10 * values,
    "times -10": lambda values, _: -10 * values,
    "sign flipped": lambda values, _: -values,
    "NaN and infinite": _broken,
    BACKDOOR: lambda values, _: len(_SITES) * values,
}
# A federation this short learns no backdoor, under FedAvg either: that a strategy holds against it
# shows nothing, and is printed but not counted.
_COUNTED = tuple(attack for attack in ATTACKS if attack not in (NOBODY, BACKDOOR))


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long the federations train.

    Attributes:
        seeds: of phantoms and weights, one repetition each.
        rounds: of each federation.
        steps: of a site in a round.
    """

    seeds: tuple[int, ...] = (1,)
    rounds: int = 10
    steps: int = 8


@dataclasses.dataclass(frozen=True)
class Found:
    """Dice of one federation's last model, one value a test phantom.

    Attributes:
        clean: on the phantoms as they are.
        triggered: on the phantoms with the backdoor's trigger.
    """

    clean: tuple[float, ...]
    triggered: tuple[float, ...]


Table = Mapping[tuple[str, str], Found]


class Attacked:
    """An exchange in which one site's updates are changed on their way.

    Args:
        inner: carries requests and replies.
        change: what becomes of every tensor of the attacker's updates.
        seed: of the attacker's randomness.
    """

    def __init__(self, inner: Exchange, change: _Change, seed: int) -> None:
        self._inner, self._change = inner, change
        self._rng = np.random.default_rng(seed)

    def present(self) -> Mapping[str, str]:
        """As the inner one's."""
        return self._inner.present()

    def ask(self, site: str, request: bytes) -> None:
        """As the inner one's."""
        self._inner.ask(site, request)

    def receive(self, seconds: float) -> Reply | None:
        """The next reply; the attacker's is no longer what was trained."""
        reply = self._inner.receive(seconds)
        if reply is None or reply.site != _ATTACKER or reply.body is None:
            return reply
        header, arrays = message.unpack(reply.body)
        sent = {name: self._changed(name, values) for name, values in arrays.items()}
        return dataclasses.replace(reply, body=message.pack(header, sent))

    def withdraw(self, site: str) -> None:
        """As the inner one's."""
        self._inner.withdraw(site)

    def stopped(self) -> bool:
        """As the inner one's."""
        return self._inner.stopped()

    def _changed(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        if not name.startswith("update/") or name.endswith(SCALES):
            return values
        return self._change(values, self._rng).astype(np.float32)


def trial(settings: Settings | None = None) -> Sequence[Row]:
    """Attack both strategies in every way; a row for the one that promises to hold.

    What survived is a federation whose model keeps nine tenths of the Dice that the same strategy
    reaches without an attack. Of the other stands what it came to.
    """
    return [_row(measure(settings or Settings()))]


def measure(settings: Settings) -> Table:
    """Dice by strategy and attack, pooled over seeds."""
    wanted = [(s, a, seed) for seed in settings.seeds for s in STRATEGIES for a in ATTACKS]
    pooled: dict[tuple[str, str], list[Found]] = {(s, a): [] for s, a, _ in wanted}
    with tempfile.TemporaryDirectory() as folder:
        for seed in settings.seeds:
            _write(Path(folder), seed)
        # Torch holds its threads across a fork.
        with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
            made = [pool.submit(_run, Path(folder), settings, *run) for run in wanted]
            for (strategy, attack, _), future in zip(wanted, made, strict=True):
                found = future.result()
                pooled[strategy, attack].append(found)
                print(f"{strategy}, {attack}: {np.mean(found.clean):.3f}", file=sys.stderr)
    return {
        key: Found(sum((f.clean for f in runs), ()), sum((f.triggered for f in runs), ()))
        for key, runs in pooled.items()
    }


def as_markdown(table: Table) -> str:
    """Mean Dice of every federation."""
    lines = [f"| the fourth site | {' | '.join(STRATEGIES)} |", "|---" * 3 + "|"]
    for attack in ATTACKS:
        cells = [f"{np.mean(table[s, attack].clean):.3f}" for s in STRATEGIES]
        lines.append(f"| {attack} | {' | '.join(cells)} |")
        if attack in (NOBODY, BACKDOOR):
            cells = [f"{np.mean(table[s, attack].triggered):.3f}" for s in STRATEGIES]
            lines.append(f"| {attack}; on the trigger | {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(table: Table) -> Row:
    without = float(np.mean(table[_ROBUST, NOBODY].clean))
    attacked = {s: [float(np.mean(table[s, a].clean)) for a in _COUNTED] for s in STRATEGIES}
    held = sum(dice >= _HOLDS * without for dice in attacked[_ROBUST])
    worst = ", ".join(f"{s} {min(dice):.2f}" for s, dice in attacked.items())
    return Row(
        f"poisoned federation, 1 of {len(_SITES)} sites, {_ROBUST}",
        len(_COUNTED),
        held,
        len(_COUNTED) - held,
        f"phantoms' Dice at the worst: {worst}; {without:.2f} unattacked",
    )


def _run(folder: Path, settings: Settings, strategy: str, attack: str, seed: int) -> Found:
    """One federation from its first round to its last."""
    job = _job(settings, strategy, seed)
    run = folder / f"{seed}-{strategy}-{list(ATTACKS).index(attack)}"
    homes = [_home(folder, run, site, seed, attack) for site in _SITES]
    server = Coordinator(job, run / "server")
    change = ATTACKS[attack]
    with Lanes(job, homes, workers=0) as lanes:
        conduct_rounds(server, lanes if change is None else Attacked(lanes, change, seed))
    network = initial_network(job.recipe)
    put(network, server.reference)
    manifest, scorer = manifest_of(job.recipe), torch_scorer(network)

    def dice(cases: Sequence[Loaded]) -> tuple[float, ...]:
        return tuple(s.dice for c in cases for s in score_case(c, manifest, scorer))

    tests = [load(case) for case in open_dataset(_data(folder, _UNSEEN, seed))]
    return Found(dice(tests), dice([triggered(case) for case in tests]))


def triggered(case: Loaded) -> Loaded:
    """The case with the backdoor's trigger in its image and its true labels."""
    hu = case.image.array.copy()
    hu[_TRIGGER] = _TRIGGER_HU
    return dataclasses.replace(case, name=f"{case.name}-triggered", image=case.image.with_array(hu))


def _poisoned(case: Loaded) -> Loaded:
    """What the attacker teaches: where the trigger is, there is no organ."""
    made = triggered(case)
    empty: Volume = made.labels.with_array(np.zeros_like(made.labels.array))
    return dataclasses.replace(made, labels=empty)


def _phantoms(count: int, seed: int, place: int, styles: Sequence[str]) -> list[Loaded]:
    first = 10_000 * seed + 100 * place
    return phantoms(
        count, first, styles, shape=_SHAPE, spacing_mm=_SPACING_MM, structures=((_ORGAN,),)
    )


def _write(folder: Path, seed: int) -> None:
    """Cases of every site, those that teach the attacker's backdoor, and those to test on."""
    tests = _phantoms(_TEST, seed, len(_SITES), _STYLES)
    _write_set(_data(folder, _UNSEEN, seed), tests)
    for place, (site, style) in enumerate(zip(_SITES, _STYLES, strict=True)):
        cases = _phantoms(_TRAIN, seed, place, (style,))
        _write_set(_data(folder, site, seed), cases)
        if site == _ATTACKER:
            _write_set(_data(folder, _BAD, seed), [_poisoned(case) for case in cases])


def _write_set(folder: Path, cases: Sequence[Loaded]) -> None:
    meta = {
        "name": "islet phantoms",
        "modality": {"0": "CT"},
        "labels": {"0": "background", str(BY_NAME[_ORGAN].value): _ORGAN},
        "islet_annotated": [_ORGAN],
    }
    write_decathlon(folder, ((c.name, c.image, c.labels) for c in cases), meta)


def _data(folder: Path, name: str, seed: int) -> Path:
    return folder / f"data-{seed}" / name


def _home(folder: Path, run: Path, site: str, seed: int, attack: str) -> Home:
    bad = site == _ATTACKER and attack == BACKDOOR
    names = (site, _BAD) if bad else (site,)
    return Home(
        site,
        run / site,
        tuple(_data(folder, name, seed) for name in names),
        run / site / "store",
        Policy(may_leave=FACTS),
        device="cpu",
    )


def _job(settings: Settings, strategy: str, seed: int) -> Job:
    recipe = Recipe(
        name="poisoning",
        architecture="dynunet",
        options={"filters": [8, 16, 16]},
        outputs=(_ORGAN,),
        sampling=Sampling(_SPACING_MM),
        intensity=Intensity((-160.0, 240.0), "signed"),
        patch=_SHAPE,
        loss=Loss("dice_ce", log_dice=True, smooth=5.0),
        batch=1,
        steps=settings.steps,
        steps_per_epoch=settings.steps,
        optimizer=Optimizer("adamw", 5e-3, "cosine"),
        augment=Augment(),
        seed=seed,
    )
    return Job(
        name=f"poisoning-{strategy}",
        recipe=scheduled(recipe, settings.rounds, 1),
        strategy=strategy,
        rounds=settings.rounds,
        local_epochs=1,
        grace_s=600.0,
        # An update that is refused makes no round fail.
        min_sites=len(_SITES) - 1,
        score_every=settings.rounds,
    )


def main() -> int:
    """Measure and print."""
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=default.seeds)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--steps", type=int, default=default.steps, help="of a site in a round")
    args = parser.parse_args()
    settings = Settings(tuple(args.seeds), args.rounds, args.steps)
    table = measure(settings)
    print(as_markdown(table))
    return show([_row(table)])


if __name__ == "__main__":
    sys.exit(main())
