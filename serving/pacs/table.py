"""A table of a TOML file, read key by key; what is left in the end is a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter


class Table:
    """One table.

    Args:
        where: how messages call it.
        values: as TOML gives them.
        folder: paths are relative to it.
    """

    def __init__(self, where: str, values: Mapping[str, Any], folder: Path) -> None:
        self._where = where
        self._values = dict(values)
        self._folder = folder

    def text(self, key: str) -> str | None:
        """A string, or ``None`` where the key is missing."""
        value = self._values.pop(key, None)
        if value is not None and not (isinstance(value, str) and value):
            raise self._wrong(key, "a text in quotes")
        return value

    def needed(self, key: str) -> str:
        """A string that must be there."""
        value = self.text(key)
        if value is None:
            raise self._wrong(key, "there")
        return value

    def number(self, key: str, default: float) -> float:
        """A number above zero."""
        value = self._values.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self._wrong(key, "a number above 0")
        return value

    def range(self, key: str, default: tuple[float, float]) -> tuple[float, float]:
        """Least and most, both still allowed."""
        value = self._values.pop(key, list(default))
        if not isinstance(value, list) or len(value) != 2:
            raise self._wrong(key, "two numbers, least and most")
        if not all(isinstance(v, int | float) for v in value) or value[0] > value[1]:
            raise self._wrong(key, "two numbers, least and most")
        return value[0], value[1]

    def words(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty where the key is missing."""
        value = self._values.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise self._wrong(key, "a list of texts in quotes")
        return tuple(value)

    def path(self, key: str) -> Path | None:
        """A path, or ``None`` where the key is missing."""
        value = self.text(key)
        return None if value is None else (self._folder / Path(value).expanduser()).resolve()

    def table(self, key: str) -> Table | None:
        """A table within, or ``None`` where the key is missing."""
        value = self._values.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, "a table")
        return Table(f"{self._where} [{key}]", value, self._folder)

    def tables(self, key: str) -> dict[str, Table]:
        """Tables within a table, by name; empty where the key is missing."""
        outer = self.table(key)
        if outer is None:
            return {}
        names = list(outer._values)
        found = {name: outer.table(name) for name in names}
        return {name: table for name, table in found.items() if table is not None}

    def done(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            BadParameter: there are some.
        """
        for key in self._values:
            raise BadParameter(
                f"{self._where} has the unknown key {key[:64]!r}; docs/pacs.md lists those that "
                "there are.",
                key=key[:64],
            )

    def _wrong(self, key: str, what: str) -> BadParameter:
        return BadParameter(f"{key} of {self._where} must be {what}.", key=key)
