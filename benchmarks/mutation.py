"""Whether the tests notice: small wrong changes in geometry and in the stores, one at a time.

    make mutants
    python -m benchmarks.mutation [MODULE ...] [--minutes M] [--json FILE]

Each mutant is one change that cosmic-ray's operators make to a module (another operator, another
number, a loop that does not run, a decorator taken off, ...). It is killed when a test of that
module's own files fails, breaks off or takes far too long; what survives is printed with its line.
Changes of annotations alone, and ``is`` made ``==``, change nothing here and are left out.

A mutant runs in a fork of this process, which has the libraries loaded, so one takes as long as
its tests alone. Nothing on disk is changed. Mutants come in an order of their own, the same every
time, so that those of ``--minutes`` are a sample of all.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import math
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

from imaging.limits import MIB

# What a module's tests are; those that need a PostgreSQL server or other processes are left out.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "imaging.geometry": ("tests/imaging/test_geometry.py", "tests/imaging/test_volume.py"),
    "imaging.volume": ("tests/imaging/test_volume.py",),
    "imaging.resample": ("tests/imaging/test_resample.py",),
    "models.store": ("tests/models/test_store.py", "tests/models/test_store_machine.py"),
    "serving.jobs.ledger": (
        "tests/serving/jobs/test_ledger.py",
        "tests/serving/jobs/test_jobs.py",
        "tests/serving/jobs/test_machine.py",
    ),
    "serving.jobs.spool": (
        "tests/serving/jobs/test_spool.py",
        "tests/serving/jobs/test_jobs.py",
        "tests/serving/jobs/test_machine.py",
    ),
}
BAR = 0.85

_LEFT_OUT = "not postgresql and not processes"
# Operators whose change means the same here, or that need names to put in.
_SAME = ("_Is_Eq", "_IsNot_NotEq", "VariableReplacer", "VariableInserter")
_OWN = ("imaging", "models", "serving", "training", "federation", "tests")
_MEMORY_MB = 4096
# A mutant that takes that many times as long as the tests do, and so many seconds more, hangs.
_TIMES, _MORE_S = 5.0, 20.0


@dataclass(frozen=True)
class Mutant:
    """One changed module.

    Attributes:
        line: of the change.
        change: the old line and the new one.
        source: all of the module.
    """

    line: int
    change: str
    source: str


@dataclass(frozen=True)
class Score:
    """What became of a module's mutants.

    Attributes:
        module: its name.
        killed, survived: how many.
        survivors: line and change of each.
        whole: whether all mutants were tried, not a sample of them.
        seconds: it took.
    """

    module: str
    killed: int
    survived: int
    survivors: tuple[str, ...]
    whole: bool
    seconds: float

    @property
    def part(self) -> float:
        """How much was killed, 0 to 1."""
        return self.killed / max(1, self.killed + self.survived)


def main() -> int:
    """Print what was killed and what survived; exit code 1 under the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=list(SUBJECTS), metavar="MODULE")
    parser.add_argument("--minutes", type=float, help="for each module; no more mutants after that")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    unknown = sorted(set(args.modules) - set(SUBJECTS))
    if unknown:
        parser.error(f"no tests are known for {unknown}; there are {sorted(SUBJECTS)}")
    limit_s = math.inf if args.minutes is None else 60 * args.minutes
    scores = [score(module, SUBJECTS[module], limit_s) for module in args.modules]
    if args.json:
        args.json.write_text(json.dumps([asdict(each) for each in scores], indent=1))
    return 0 if all(each.part >= BAR for each in scores) else 1


def score(module: str, tests: Sequence[str], limit_s: float = math.inf) -> Score:
    """Try a module's mutants on its tests, and print every survivor as it is found.

    Args:
        module: its full name.
        tests: files.
        limit_s: no mutant is begun after that many seconds.

    Raises:
        RuntimeError: the tests do not pass on the module as it is.
    """
    path = Path(importlib.import_module(module).__file__ or "")
    source = path.read_text()
    _warm(tests)
    began = time.monotonic()
    if not passes(module, source, tests, 600.0):
        raise RuntimeError(f"{', '.join(tests)} fail without any mutant; mend them first.")
    each_s = _TIMES * (time.monotonic() - began) + _MORE_S
    survivors: list[str] = []
    tried, whole = 0, True
    for mutant in mutants(source):
        whole = time.monotonic() - began < limit_s
        if not whole:
            break
        tried += 1
        if passes(module, mutant.source, tests, each_s):
            survivors.append(f"{path.name}:{mutant.line}: {mutant.change}")
            print(f"  survived {survivors[-1]}", flush=True)
    killed, seconds = tried - len(survivors), round(time.monotonic() - began, 1)
    made = Score(module, killed, len(survivors), tuple(survivors), whole, seconds)
    print(
        f"{module}: {killed} of {tried} mutants killed ({100 * made.part:.1f} %), "
        f"{len(survivors)} survived, {'all there are' if whole else 'a sample'}, {seconds:.0f} s",
        flush=True,
    )
    return made


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module that means something else than it does, in an order of their own."""
    plugins, mutating, syntax = _cosmic_ray()
    nodes = list(syntax.ast_nodes(syntax.get_ast(source)))
    places = []
    for name in plugins.operator_names():
        if not name.endswith(_SAME):
            operator = plugins.get_operator(name)()
            count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            places += [(operator, place) for place in range(count)]
    random.Random(0).shuffle(places)
    meaning = {_meaning(source)}
    for operator, place in places:
        changed = mutating.mutate_code(source, operator, place)
        found = changed and _meaning(changed)
        if found and found not in meaning:
            meaning.add(found)
            yield Mutant(*_difference(source, changed), changed)


def passes(module: str, source: str, tests: Sequence[str], limit_s: float) -> bool:
    """Whether tests pass on a module with another source, in a fork of this process."""
    child = os.fork()
    if not child:
        os.setsid()
        code = 1
        try:
            code = _verdict(module, source, tests)
        finally:
            os._exit(code)
    deadline = time.monotonic() + limit_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives one module another source."""

    def __init__(self, module: str, source: str, path: str) -> None:
        self._module, self._source, self._path = module, source, path

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self._module:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def get_source(self, fullname: str) -> str:
        del fullname
        return self._source


def _verdict(module: str, source: str, tests: Sequence[str]) -> int:
    import pytest

    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_MB * MIB, _MEMORY_MB * MIB))
    path = Path(*module.split(".")).with_suffix(".py")
    sys.meta_path.insert(0, _Finder(module, source, str(path.resolve())))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    # Plugins take longer to load than most mutants to be killed.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-k", _LEFT_OUT]
    return int(pytest.main([*options, *tests], plugins=[_Hasty()]))


class _Hasty:
    """Has hypothesis stop at the first example that fails, instead of looking for a smaller one."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile(
            "hasty",
            settings.get_profile("islet"),
            phases=(Phase.explicit, Phase.generate),
            report_multiple_bugs=False,
        )
        settings.load_profile("hasty")


def _warm(tests: Sequence[str]) -> None:
    """Load the libraries that tests need, and forget our own modules again."""
    for test in tests:
        importlib.import_module(test.removesuffix(".py").replace("/", "."))
    for name in list(sys.modules):
        if name.partition(".")[0] in _OWN:
            del sys.modules[name]


def _cosmic_ray() -> tuple[ModuleType, ModuleType, ModuleType]:
    names = ("cosmic_ray.plugins", "cosmic_ray.mutating", "cosmic_ray.ast")
    try:
        plugins, mutating, syntax = map(importlib.import_module, names)
    except ImportError as error:
        raise SystemExit(
            "The mutants are made by cosmic-ray, which is not installed; pip install cosmic-ray."
        ) from error
    return plugins, mutating, syntax


def _meaning(source: str) -> str | None:
    """What a module does: its syntax tree without annotations; ``None`` where it has none."""
    with contextlib.suppress(SyntaxError):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign):
                node.annotation = ast.Constant(None)
            elif isinstance(node, ast.arg):
                node.annotation = None
            elif isinstance(node, ast.FunctionDef):
                node.returns = None
        return ast.dump(tree)
    return None


def _difference(before: str, after: str) -> tuple[int, str]:
    """The first line that differs, and how."""
    lines = before.splitlines(), after.splitlines()
    pairs = enumerate(zip_longest(*lines, fillvalue=""), 1)
    number, (old, new) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    return number, f"{old.strip()}  ->  {new.strip()}"


if __name__ == "__main__":
    sys.exit(main())
