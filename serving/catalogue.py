"""The models of a store as callers see them: name, aliases, versions, what each can find."""

from __future__ import annotations

import json
from typing import Any

from imaging.errors import ModelError
from models.labels import MASKS
from models.store import Store
from serving.options import available


def entries(store: Store) -> list[dict[str, Any]]:
    """One entry a model; reads every file that was not read before."""
    return [entry(store, name) for name in store.names()]


def entry(store: Store, name: str) -> dict[str, Any]:
    """A model's ``name``, ``aliases`` and ``versions``; JSON-serialisable.

    Raises:
        ModelNotFound: no such name.
    """
    versions = store.versions(name)
    if not versions:
        raise store.unknown(name)
    return {
        "name": name,
        "aliases": store.aliases(name),
        "versions": [_version(store, name, version) for version in versions],
    }


def _version(store: Store, name: str, version: int) -> dict[str, Any]:
    found: dict[str, Any] = {"version": version, "reference": f"{name}@{version}"}
    try:
        model = store.resolve(f"{name}@{version}")
    except ModelError as error:
        # One broken file must not hide the others.
        return found | {"error": error.as_dict()}
    return found | {
        "sha256": model.sha256,
        "bytes": model.size,
        "masks": [mask for mask in MASKS if available(mask, model.manifest)],
        "manifest": json.loads(model.manifest.to_json()),
    }
