"""The promises of ``docs/security.md``, each shown by its tests or not.

    python -m benchmarks.trials.promises

Needs what the tests need (``make setup``). Processes of their own are started where a promise is
one about them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.trials.row import Row

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "security.md"
_PROMISE = re.compile(r"^\| (\d+) \| (.+?) \| ?(.*?) ?\|$", re.MULTILINE)
_FILE = re.compile(r"`(tests/[a-z0-9_/]+\.py)`")
# A line of pytest's report for one test file's outcome.
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/[a-z0-9_/]+\.py)", re.MULTILINE)
_COUNTS = re.compile(r"(\d+) passed")
_SECONDS = 3600


def promises(page: Path = _PAGE) -> Mapping[int, tuple[str, ...]]:
    """The test files of each promise, by its number.

    Raises:
        ValueError: a promise without a test, or a test that is not there.
    """
    found = {int(n): tuple(_FILE.findall(by)) for n, _, by in _PROMISE.findall(page.read_text())}
    for number, files in found.items():
        missing = [name for name in files if not (_ROOT / name).is_file()]
        if not files or missing:
            raise ValueError(f"Promise {number} names {missing or 'no test'}; name what shows it.")
    return found


def trial(numbers: Sequence[int] | None = None) -> Sequence[Row]:
    """Run the tests of the promises; one whose tests all pass is shown.

    Args:
        numbers: of the promises to try; all where ``None``.
    """
    tried = {n: files for n, files in promises().items() if numbers is None or n in numbers}
    files = sorted({name for shown_by in tried.values() for name in shown_by})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *files],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    failed = set(_FAILED.findall(done.stdout))
    passed = _COUNTS.search(done.stdout)
    if passed is None or (done.returncode and not failed):
        # Nothing was collected, or pytest itself ended.
        failed = set(files)
    kept = [n for n, shown_by in tried.items() if not failed & set(shown_by)]
    figure = f"{passed[1] if passed else 0} tests of {len(files)} files"
    return [Row("promises to attackers", len(tried), len(kept), len(tried) - len(kept), figure)]


if __name__ == "__main__":
    for row in trial([int(n) for n in sys.argv[1:]] or None):
        print(row)
