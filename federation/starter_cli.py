"""``islet federate starter``: the released models, out of a federation on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.recipe import Recipe


def add_command(kinds: Any) -> None:
    """Add ``starter`` to the sub-commands of ``federate``."""
    made = kinds.add_parser(
        "starter", help="share CTs and phantoms out to sites, train together and in one place"
    )
    made.set_defaults(command=starter)
    made.add_argument("--data", type=Path, nargs="+", required=True, help="data sets of the CTs")
    made.add_argument("--shapes", type=Path, help="real lesions' shapes, to be planted")
    made.add_argument("-o", "--out", type=Path, required=True, help="a run of it is gone on with")
    made.add_argument("--store", type=Path, help="where to publish (default: the default store)")
    made.add_argument(
        "--leave-out", nargs="+", default=[], metavar="CASE", help="CTs kept aside, to judge by"
    )
    made.add_argument("--recipe", default="starter")
    made.add_argument("--scale", default="paper", choices=("tiny", "small", "paper"))
    made.add_argument("--rounds", type=int, default=150)
    made.add_argument("--steps", type=int, default=10, help="of a site in a round")
    made.add_argument(
        "--from", dest="start", default="", metavar="MODEL", help="of the store: go on training it"
    )
    made.add_argument(
        "--no-twin", dest="twin", action="store_false", help="leave the training in one place out"
    )
    made.add_argument("--strategy", default="fedavg", help="fedavg, fedprox, condist, ...")
    made.add_argument("--threads", type=int, default=1, help="CPU threads of each site")
    made.add_argument("--seed", type=int, default=0, help="of weights, lesions and phantoms")


def starter(args: argparse.Namespace) -> int:
    """``islet federate starter --data DIR --shapes DIR -o OUT``: models and what was done."""
    from federation.partners import STARTER, share_out, without
    from federation.starter import join_published, keep_summary
    from models.store import default_store
    from training.pretraining import fine_tuned
    from training.recipes import beside, recipe

    store = args.store or default_store().root
    # A job names the model that it starts from; every process looks it up there.
    os.environ["ISLET_STORE"] = str(store.resolve())
    partners = without(STARTER, args.leave_out)
    data = share_out(partners, args.data, args.shapes, args.out / "data", args.seed)
    weights = {partner.name: partner.weight for partner in partners}
    named = dataclasses.replace(recipe(args.recipe, args.scale), seed=args.seed)
    summary: dict[str, Any]
    if named.parts and not args.start:
        trained = {
            part: _train(args, beside(name, named), data, weights, args.out / part, store)
            for part, name in named.parts.items()
        }
        summary = {"parts": trained, "models": join_published(named, store)}
        keep_summary(summary, args.out)
    else:
        whole = fine_tuned(named) if args.start else named
        summary = _train(args, whole, data, weights, args.out, store)
    print(json.dumps(summary, indent=1))
    return 0


def _train(
    args: argparse.Namespace,
    recipe: Recipe,
    data: dict[str, tuple[Path, ...]],
    weights: dict[str, int],
    out: Path,
    store: Path,
) -> dict[str, Any]:
    """A federation and its twin."""
    from federation.starter import starter_job, train_starter
    from federation.ticker import Ticker

    job = starter_job(
        recipe, args.rounds, args.steps, args.strategy, weights=weights, start=args.start
    )
    say = Ticker(args.rounds)
    return train_starter(job, data, out, store, threads=args.threads, twin=args.twin, say=say)
