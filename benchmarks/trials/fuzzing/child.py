"""One fuzzing process: ``python -m benchmarks.trials.fuzzing.child TARGET FOLDER [FLAG ...]``.

The flags are libFuzzer's. Bytes that crash a target are made smaller at once and written to
``FOLDER/crashes``, one file for each place in the code and kind of error, and the run goes on. A
hang or too much memory ends it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[3])
# Packages whose branches guide the fuzzer.
_FOLLOWED = ["imaging", "models", "nibabel", "pydicom"]
# How many of the changes keep to a target's format, where it has one.
_BY_FORMAT = 0.7
# How often a crash is tried in a smaller form.
_TRIES = 2000


class Crashes:
    """What crashed so far.

    Args:
        folder: for a file each.
        read: raises for bytes that crash.
    """

    def __init__(self, folder: Path, read: Callable[[bytes], object]) -> None:
        self._folder = folder
        self._read = read
        self.seen: dict[str, int] = {}

    def judge(self, data: bytes) -> None:
        """Read bytes, and keep them where they crash in a way that no others did."""
        mark = signature(self._read, data)
        if mark is None:
            return
        self.seen[mark] = self.seen.get(mark, 0) + 1
        if self.seen[mark] == 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            small = smallest(data, lambda part: signature(self._read, part) == mark)
            name = hashlib.sha256(mark.encode()).hexdigest()[:12]
            (self._folder / f"{name}.bin").write_bytes(small)
        (self._folder / "crashes.json").write_text(json.dumps(self.seen, indent=1))


def signature(read: Callable[[bytes], object], data: bytes) -> str | None:
    """The error that bytes end in and where in our code; ``None`` where they do not crash."""
    try:
        read(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        frames = [f for f in traceback.extract_tb(error.__traceback__) if _ours(f.filename)]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
        return f"{type(error).__name__} in {where}"
    return None


def smallest(data: bytes, holds: Callable[[bytes], bool]) -> bytes:
    """Bytes made shorter piece by piece, then zeroed, while they still do what they did."""
    tries, size = 0, max(1, len(data) // 2)
    while size and tries < _TRIES:
        start = 0
        while start < len(data) and tries < _TRIES:
            tries += 1
            less = data[:start] + data[start + size :]
            if holds(less):
                data = less
            else:
                start += size
        size //= 2
    return data


def _ours(file: str) -> bool:
    return file.startswith(_ROOT) and "site-packages" not in file and not file.startswith(__file__)


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")
    name, folder, *flags = sys.argv[1:]
    with atheris.instrument_imports(include=_FOLLOWED, enable_loader_override=False):
        targets = importlib.import_module("benchmarks.trials.fuzzing.targets")
    target = targets.TARGETS[name]
    corpus = Path(folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    crashes = Crashes(Path(folder) / "crashes", lambda data: targets.silent(target, data))

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.change is not None and rng.random() < _BY_FORMAT:
            with suppress(ValueError, RecursionError):
                made: bytes = target.change(data, rng)
                if len(made) <= most:
                    return made
        return bytes(atheris.Mutate(data, most))

    atheris.Setup([sys.argv[0], *flags, str(corpus)], crashes.judge, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
