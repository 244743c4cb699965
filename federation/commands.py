"""The federation's sub-commands: arguments in, an exit code out.

NVIDIA FLARE and torch are imported when a command needs them, so that the command line stays quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.starter_cli import add_command as add_starter
from federation.ticker import Ticker
from imaging.errors import BadParameter, FederationError
from imaging.files import write_whole
from training import TRACKERS

if TYPE_CHECKING:
    from federation.home import Home
    from federation.job import Job
    from federation.progress import Round
    from federation.studies import Study

GLOBAL = "global.onnx"
SCALES = ("tiny", "small", "paper")
Command = Callable[[argparse.Namespace], int]
# Flags that are fields of a job; what is not given keeps the job's default.
_FLAGS = (
    ("--rounds", int, "rounds in all"),
    ("--local-epochs", int, "epochs a site trains in a round"),
    ("--start", str, "a model of the server's store whose weights the first round begins with"),
    ("--strategy", str, "fedavg, fedbn, fedprox, ..."),
    ("--weighting", str, "sites count as their cases or are equal"),
    ("--codec", str, "how updates travel: fp32, fp16 or int8"),
    ("--min-sites", int, "fewer do not make a round"),
    ("--max-sites", int, "more are not let in"),
    ("--round-timeout-s", float, "a round that has not enough updates by then is repeated"),
    ("--grace-s", float, "how long a round waits for the others"),
    ("--score-every", int, "rounds between candidates for the global model"),
    ("--rule", str, "how the best is chosen: mean, equal or worst"),
)


def add_commands(commands: Any) -> None:
    """Add ``federate`` and its sub-commands to the command line's."""
    federate = commands.add_parser("federate", help="train with other hospitals; cases stay")
    kinds = federate.add_subparsers(required=True, metavar="COMMAND")

    _add_parties(kinds)
    _add_coordinating(kinds)
    _add_alone(kinds)
    add_starter(kinds)


def _add_parties(kinds: Any) -> None:
    """Who runs: kits, the server, the sites."""
    make = kinds.add_parser("provision", help="make the kits of a federation")
    make.set_defaults(command=provision)
    make.add_argument("project", type=Path, nargs="?", help="project.yml")
    make.add_argument("-o", "--out", type=Path, default=Path("kits"))
    make.add_argument("--example", action="store_true", help="print a project.yml")

    serve = kinds.add_parser("server", help="run the federation's server")
    serve.set_defaults(command=server)
    serve.add_argument("--kit", type=Path, required=True)
    serve.add_argument("--track", nargs="+", choices=TRACKERS, help="curves; remembered in the kit")
    serve.add_argument("--tracking-uri", help="MLflow's server or store")

    join = kinds.add_parser("site", help="take part with the cases of this machine")
    join.set_defaults(command=site)
    join.add_argument("--kit", type=Path, required=True, help="its flags are remembered in the kit")
    join.add_argument("--data", type=Path, nargs="+", default=[], help="data set folders")
    join.add_argument("--store", type=Path, help="where trained models are published")
    join.add_argument("--policy", type=Path, help="TOML with what this site allows")
    join.add_argument("--device", choices=("auto", "cpu", "cuda"))
    join.add_argument("--threads", type=int, help="CPU threads of a training")


def _add_coordinating(kinds: Any) -> None:
    """What a coordinator does from its own machine."""
    hand_in = kinds.add_parser("submit", help="hand a job to the federation")
    hand_in.set_defaults(command=submit)
    _add_job(hand_in)
    _add_kit(hand_in)
    hand_in.add_argument("--wait", action="store_true", help="show its rounds until it ends")

    look = kinds.add_parser("status", help="how jobs stand")
    look.set_defaults(command=status)
    look.add_argument("job", nargs="?", help="its number (default: all)")
    _add_kit(look)
    for name, does, said in (
        ("logs", logs, "the server's log of a job"),
        ("abort", abort, "stop a job"),
        ("fetch", fetch, "copy an ended job's results"),
    ):
        parser = kinds.add_parser(name, help=said)
        parser.set_defaults(command=does)
        parser.add_argument("job", help="its number")
        _add_kit(parser)
        if name == "fetch":
            parser.add_argument("-o", "--out", type=Path, required=True)
            parser.add_argument("--publish", action="store_true", help="into the store, as @global")


def _add_alone(kinds: Any) -> None:
    """Whole federations on one machine."""
    alone = kinds.add_parser("local", help="a whole federation on this machine, over mutual TLS")
    alone.set_defaults(command=local)
    _add_job(alone)
    alone.add_argument(
        "--site",
        nargs="+",
        action="append",
        metavar=("NAME", "DIR"),
        help="a site and its data sets (default: the phantom sites of the study of that name)",
    )
    alone.add_argument("--seed", type=int, default=0, help="of the phantom sites")
    # A study's phantoms are there to be seen in minutes; a hospital's cases are not.
    alone.set_defaults(scale=None)
    alone.add_argument("--store", type=Path, help="publish the models here too")
    alone.add_argument("-o", "--out", type=Path, default=Path("out"))

    play = kinds.add_parser("simulate", help="a paper's study on phantom hospitals, in one process")
    play.set_defaults(command=simulate)
    play.add_argument("study", help="wang2020 or segviz")
    play.add_argument("--scale", default="tiny", choices=SCALES, help="size of the training")
    play.add_argument("--seeds", type=int, nargs="+", default=[0], help="one repetition each")
    play.add_argument("--data", type=Path, help="real cases: a folder with one for each hospital")
    play.add_argument("--track", nargs="+", choices=TRACKERS, default=[], help="curves")
    play.add_argument("-o", "--out", type=Path, default=Path("out"))


def provision(args: argparse.Namespace) -> int:
    """``islet federate provision project.yml -o KITS``: kits for every party."""
    from federation.flare import kits

    if args.example:
        print(kits.EXAMPLE, end="")
        return 0
    if args.project is None:
        raise BadParameter("Name a project.yml; --example prints one.")
    for kit in kits.provision(args.project, args.out):
        print(kit)
    return 0


def server(args: argparse.Namespace) -> int:
    """``islet federate server --kit KIT``: run until told to end."""
    from federation.flare.home import write_tracking
    from federation.flare.processes import run, server_party

    if args.track is not None:
        write_tracking(args.kit, args.track, args.tracking_uri)
    return run(server_party(args.kit))


def site(args: argparse.Namespace) -> int:
    """``islet federate site --kit KIT --data DIR``: run until told to end."""
    from federation.flare.home import change_settings
    from federation.flare.processes import run, site_party

    change_settings(args.kit, args.data, args.store, args.policy, args.device, args.threads)
    return run(site_party(args.kit))


def submit(args: argparse.Namespace) -> int:
    """``islet federate submit RECIPE --kit KIT``: the job's number."""
    from federation.flare.coordinators import coordinator, follow

    job = make_job(args)
    with coordinator(args.kit) as session:
        job_id = session.submit(job)
    print(job_id, flush=True)
    if not args.wait:
        return 0
    return 0 if follow(args.kit, job_id, Ticker(job.rounds)).state == "completed" else 1


def status(args: argparse.Namespace) -> int:
    """``islet federate status [JOB] --kit KIT``: all jobs, or one with its rounds."""
    from federation import progress
    from federation.flare.coordinators import coordinator

    with coordinator(args.kit) as session:
        if args.job is None:
            rows = [(s.job_id, s.name, s.state) for s in session.jobs()]
            print("\n".join(progress.columns([("job", "name", "state"), *rows])))
            return 0
        standing = session.standing(args.job)
    print(f"{standing.name} ({standing.job_id}): {standing.state}")
    if standing.history is not None:
        print(progress.table(standing.history))
    return 0


def logs(args: argparse.Namespace) -> int:
    """``islet federate logs JOB --kit KIT``: what the server wrote of it."""
    from federation.flare.coordinators import coordinator

    with coordinator(args.kit) as session:
        print(session.logs(args.job), end="")
    return 0


def abort(args: argparse.Namespace) -> int:
    """``islet federate abort JOB --kit KIT``: stop it."""
    from federation.flare.coordinators import coordinator

    with coordinator(args.kit) as session:
        session.abort(args.job)
    return 0


def fetch(args: argparse.Namespace) -> int:
    """``islet federate fetch JOB --kit KIT -o DIR``: the global model and what led to it."""
    from federation.flare.coordinators import coordinator
    from models.store import default_store

    with coordinator(args.kit) as session:
        for path in session.fetch(args.job, args.out):
            print(path)
    if args.publish:
        model = args.out / GLOBAL
        if not model.exists():
            raise FederationError(f"Job {args.job} has no global model; its sites have their own.")
        published = default_store().publish(model, ["global"])
        print(f"published as {published.reference}")
    return 0


def local(args: argparse.Namespace) -> int:
    """``islet federate local RECIPE --site c1 DIR --site c2 DIR -o OUT``: all of it here."""
    from federation.flare.local import publish, run_local
    from federation.home import Home
    from federation.policy import Policy

    args.scale = args.scale or ("paper" if args.site else "tiny")
    if args.site:
        job, data = make_job(args), {name: map(Path, folders) for name, *folders in args.site}
        homes = [
            Home(name, args.out / name, tuple(data[name]), args.out / "stores" / name, Policy())
            for name in data
        ]
    else:
        job, homes = _phantom_sites(args)
    results = run_local(job, homes, args.out, Ticker(job.rounds))
    for path in sorted(results.iterdir()):
        print(path)
    for model in publish(job, homes, results, args.store) if args.store else ():
        print(f"published as {model}")
    return 0


def simulate(args: argparse.Namespace) -> int:
    """``islet federate simulate STUDY -o OUT``: the paper's table on phantoms, and a figure."""
    from federation import studies
    from models.store import default_store
    from training.reproduce import figure

    study = _study(args.study)
    report = studies.run(
        study,
        args.out,
        scale=args.scale,
        seeds=args.seeds,
        data=args.data,
        track=args.track,
        told=_tell,
    )
    print(report.text)
    write_whole(args.out / f"{study.name}.md", f"{report.text}\n".encode())
    figure.draw(report, report.text.partition(";")[0], args.out / f"{study.name}.png")
    part = studies.repetition(args.out, args.seeds[0])
    for model in studies.publish(study, part, default_store()):
        print(f"published as {model.reference}")
    return 0


def _tell(made: Round) -> None:
    from federation.progress import TOOK_PART

    took = [entry.site for entry in made.entries if entry.state == TOOK_PART]
    text = f"round {made.label}: {', '.join(took)} took part, {made.seconds:.1f} s"
    print(text, file=sys.stderr, flush=True)


def _study(name: str) -> Study:
    from federation.studies import STUDIES

    if name not in STUDIES:
        raise BadParameter(f"There is no study {name[:40]!r}; there are {', '.join(STUDIES)}.")
    return STUDIES[name]


def _phantom_sites(args: argparse.Namespace) -> tuple[Job, list[Home]]:
    """The federation of a study, its sites' phantoms made."""
    from federation.home import Home
    from federation.policy import FACTS, Policy
    from federation.studies.cohorts import write_sites

    study, stores = _study(args.job), args.out / "stores"
    if any(getattr(args, name) is not None for name in _fields()):
        raise BadParameter("A study's job has its own figures; leave the flags, or give --site.")
    arm = next(arm for arm in study.arms(args.scale, args.seed) if len(arm.sites) > 1)
    folders = write_sites(study.hospitals, args.out / "data", args.seed)
    # Everything may leave: the sites are phantoms.
    policy = Policy(may_leave=FACTS)
    return arm.job, [
        Home(site, args.out / site, tuple(folders[h] for h in hospitals), stores / site, policy)
        for site, hospitals in arm.sites.items()
    ]


def make_job(args: argparse.Namespace) -> Job:
    """The job of the arguments: a file that holds one, or a recipe's with the flags.

    Raises:
        BadParameter: no such recipe, or flags that do not go together.
    """
    from federation.job import Job, Privacy, scheduled
    from federation.strategies import options_of
    from training.recipes import recipe

    path = Path(args.job)
    given = {name: getattr(args, name) for name in _fields() if getattr(args, name) is not None}
    if path.is_file():
        if given or args.privacy or args.option:
            raise BadParameter(f"{path.name} holds a whole job; leave the flags away.")
        return Job.from_json(path.read_text())
    defaults = {field.name: field.default for field in dataclasses.fields(Job)}
    length = {name: given.get(name, defaults[name]) for name in ("rounds", "local_epochs")}
    named = scheduled(recipe(args.job, args.scale), **length)
    privacy = Privacy(*args.privacy) if args.privacy else None
    job = Job(named.name, named, privacy=privacy, options=_options(args.option), **given)
    # What is wrong with them is said here, not by a server that refuses to begin.
    options_of(job.strategy, job.options)
    return job


def _options(given: list[str]) -> dict[str, float]:
    """A strategy's figures from NAME=VALUE."""
    try:
        return {name: float(value) for name, value in (pair.split("=") for pair in given)}
    except ValueError as error:
        raise BadParameter(f"Options are NAME=VALUE with a number, not {given}.") from error


def _fields() -> list[str]:
    names = [flag[2:].replace("-", "_") for flag, _, _ in _FLAGS]
    return [*names, "label_aware", "local_head"]


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="file of a job, or name of a recipe, e.g. wang2020")
    parser.add_argument("--scale", default="paper", choices=SCALES, help="size of the training")
    for flag, kind, said in _FLAGS:
        parser.add_argument(flag, type=kind, help=said)
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the strategy"
    )
    parser.add_argument(
        "--privacy", type=float, nargs=3, metavar=("CLIP", "NOISE", "DELTA"), help="noisy updates"
    )
    for flag, said in (
        ("--label-aware", "average a structure over the sites that label it"),
        ("--local-head", "the last layers stay at their site"),
    ):
        parser.add_argument(flag, action="store_true", default=None, help=said)


def _add_kit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kit", type=Path, required=True, help="a coordinator's kit")
