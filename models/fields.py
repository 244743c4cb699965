"""Frozen dataclasses that came from JSON: lists made tuples, every field of its declared type."""

from __future__ import annotations

import dataclasses
import json
import math
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from imaging.errors import BadManifest


def freeze(value: Any, *names: str) -> None:
    """Turn lists that came from JSON into tuples, so that a frozen value is one; check all types.

    Raises:
        BadManifest: a field of another type than it is declared with, a number that JSON has not
            (NaN, infinity), or an integer beyond all floats.
    """
    for name in names:
        if isinstance(getattr(value, name), list):
            object.__setattr__(value, name, tuple(getattr(value, name)))
    hints = get_type_hints(type(value))
    for declared in dataclasses.fields(value):
        found = getattr(value, declared.name)
        if not _fits(found, hints[declared.name]):
            raise BadManifest(f"{declared.name} must be {declared.type}, not {repr(found)[:80]}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is one of a declared type; only the types that a manifest is made of."""
    args = get_args(hint)
    if hint is Any:
        return _is_json(value)
    if get_origin(hint) is UnionType:
        return any(_fits(value, option) for option in args)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(
            _fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items()
        )
    if get_origin(hint) is tuple:
        options = args[:1] * len(value) if args[-1] is ... else args
        return (
            isinstance(value, tuple)
            and len(value) == len(options)
            and all(map(_fits, value, options))
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        # To Python True is an integer; to a manifest it is not.
        return isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    return _is_finite(value) and (hint is float or (hint is int and isinstance(value, int)))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer of hundreds of digits, which no calculation would take.
        return False


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True
