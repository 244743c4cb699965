"""The assessment's figures in one JSON file: parts that are there are not computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from imaging.files import write_whole

FILE = "assessment.json"
SCHEMA = 1

Figures = dict[str, Any]


class Record:
    """``assessment.json`` of a folder, written after every part.

    Args:
        out: the folder; what it holds is read.

    Raises:
        DataError: a file there that is no assessment of this version.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / FILE
        self.figures: Figures = {"schema": SCHEMA, "models": {}, "outputs": {}, "parts": {}}
        if self.path.exists():
            self.figures = _read(self.path)

    def part(self, name: str, model: str, case: str, key: object, made: Callable[[], Any]) -> Any:
        """The figures of one part for one case by one model, computed where they are not there.

        Args:
            name: of the part.
            model, case: names that the figures are filed under.
            key: all that they depend on, as JSON has it; figures of another key are made again.
            made: computes them, as JSON has them.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        cases = self.figures["parts"].setdefault(name, {}).setdefault(model, {})
        if cases.get(case, {}).get("key") != digest:
            # As a later reading has them: tuples are lists in JSON.
            cases[case] = {"key": digest, "figures": json.loads(json.dumps(made()))}
            self.save()
        return cases[case]["figures"]

    def of(self, name: str, model: str) -> dict[str, Any]:
        """A part's figures by case; empty where it was not computed."""
        cases = self.figures["parts"].get(name, {}).get(model, {})
        return {case: entry["figures"] for case, entry in cases.items()}

    def save(self) -> None:
        """Write the file in one step."""
        write_whole(self.path, json.dumps(self.figures, indent=1).encode())


def _read(path: Path) -> Figures:
    try:
        figures: Figures = json.loads(path.read_text(encoding="utf-8"))
        known = figures["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not parse ({error!r}); name another folder.") from error
    if known != SCHEMA:
        raise DataError(
            f"{path} has schema {known}, this version writes {SCHEMA}; name another folder."
        )
    return figures
