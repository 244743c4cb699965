"""No source of the project unpickles, evaluates or hands text to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("imaging", "models", "training", "federation", "serving", "benchmarks", "tests")

# Modules that turn bytes into code, whatever of them is called.
_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# Of those modules: classes of errors, and what only writes.
_HARMLESS = {"UnpicklingError", "PickleError", "PicklingError", "dump", "dumps", "HIGHEST_PROTOCOL"}
_BUILT_IN = {"eval", "exec", "compile", "__import__"}
_SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
_YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}


def unsafe(source: str) -> list[str]:
    """Each unsafe use in a source, with its line."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    return [
        f"{node.lineno}: {why}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Attribute | ast.Name)
        if (why := _reason(node, names))
    ]


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What every imported name stands for, with its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _full(node: ast.expr, names: dict[str, str]) -> str:
    """The dotted name of an expression, as it was imported; empty where it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = _full(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _reason(node: ast.Call | ast.Attribute | ast.Name, names: dict[str, str]) -> str | None:
    if not isinstance(node, ast.Call):
        # A function may be handed on without being called here.
        module, _, name = _full(node, names).partition(".")
        return f"{module}.{name}" if module in _MODULES and name not in _HARMLESS | {""} else None
    called = _full(node.func, names)
    given = {k.arg: k.value for k in node.keywords}
    if called in _BUILT_IN | _SHELLS | _YAML or _true(given.get("shell")):
        return called or "shell"
    if called.endswith("torch.load") and not _true(given.get("weights_only")):
        return "torch.load without weights_only"
    if _true(given.get("allow_pickle")) or "pickle_module" in given:
        return f"{called} with a pickle"
    return None


def _true(value: ast.expr | None) -> bool:
    """Whether an argument is given and is not plainly false."""
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


@pytest.mark.parametrize("floor", [*FLOORS, "islet.py"])
def test_nothing_unsafe_is_called(floor: str) -> None:
    path = ROOT / floor
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): unsafe(f.read_text(encoding="utf-8")) for f in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(body)",
        "import pickle as p\np.Unpickler(file).load()",
        "from pickle import load as read\nread(file)",
        "import pickle\nhandlers = {'a': pickle.loads}",
        "from joblib import load\nload(path)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load\nx = 1\nimport torch as t\nt.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
    ],
)
def test_a_bad_source_is_caught(source: str) -> None:
    assert len(unsafe(source)) >= 1


def test_a_good_source_is_not() -> None:
    good = (
        "import pickle, torch, yaml, re, subprocess\nimport numpy as np\n"
        "torch.load(path, weights_only=True)\nnp.load(path)\nyaml.safe_load(text)\n"
        "re.compile(text)\nnetwork.eval()\nsubprocess.run([a, b], shell=False)\n"
        "try: pass\nexcept pickle.UnpicklingError: pass\n"
    )
    assert unsafe(good) == []
