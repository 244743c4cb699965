"""Medical Segmentation Decathlon and nnU-Net raw folders: ``dataset.json`` beside the images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from models.labels import BY_NAME
from training.cases import Case

# Data sets name lesions by kind alone; the organ beside them says which lesion it is.
_LESIONS = {"cancer", "tumor", "tumour", "tumors", "lesion", "mass"}
_SYNONYMS = {
    "left kidney": "kidney",
    "right kidney": "kidney",
    "kidney_left": "kidney",
    "kidney_right": "kidney",
    "kidneys": "kidney",
    "cyst": "kidney_cyst",
    "oesophagus": "esophagus",
}


def read(folder: Path) -> list[Case]:
    """The labelled cases of a folder with ``dataset.json``.

    The Decathlon lists its pairs under ``training``; nnU-Net raw has ``imagesTr/NAME_0000.ext``
    and ``labelsTr/NAME.ext``. Labels whose names are no structure of Islet (and no synonym of
    one) count as unlabelled. ``islet_annotated`` may list the annotated structures where they are
    more than those with a label value.

    Raises:
        DataError: ``dataset.json`` does not parse, or lists files that are not there.
    """
    try:
        meta = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        values = structures(_label_names(meta["labels"]))
        annotated = tuple(dict.fromkeys((*values.values(), *meta.get("islet_annotated", ()))))
        pairs = _pairs(folder, meta)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder.name}/dataset.json is not in the Decathlon's or nnU-Net's form ({error!r})."
        ) from error
    source = {
        "name": str(meta.get("name", folder.name)),
        "licence": str(meta.get("licence", meta.get("license", "not stated"))),
        "labels": str(meta.get("islet_label_kind", "as published")),
    }
    for image, label in pairs.values():
        for path in (image, label):
            if not path.exists():
                raise DataError(
                    f"{folder.name}/dataset.json names {path.name}, which is not there."
                )
    return [Case(n, i, lab, values, annotated, source) for n, (i, lab) in sorted(pairs.items())]


def structures(names: Mapping[int, str]) -> dict[int, str]:
    """Islet's structure for each label value that means one."""
    plain = {v: _SYNONYMS.get(n.lower(), n.lower()) for v, n in names.items()}
    organs = {n for n in plain.values() if n in BY_NAME and BY_NAME[n].parent is None}
    with_tumors = {n for n in organs if f"{n}_tumor" in BY_NAME} or organs
    if len(with_tumors) == 1:
        (organ,) = with_tumors
        # A lesion that Islet has no name for is a part of its organ, not background.
        lesion = f"{organ}_tumor" if f"{organ}_tumor" in BY_NAME else organ
        plain = {v: lesion if n in _LESIONS else n for v, n in plain.items()}
    return {v: n for v, n in plain.items() if n in BY_NAME}


def _label_names(labels: Mapping[str, Any]) -> dict[int, str]:
    """Value to name; the Decathlon writes {"1": "pancreas"}, nnU-Net {"pancreas": 1}."""
    if all(key.isdecimal() for key in labels):
        return {int(key): str(name) for key, name in labels.items()}
    return {int(value): name for name, value in labels.items() if not isinstance(value, list)}


def _pairs(folder: Path, meta: Mapping[str, Any]) -> dict[str, tuple[Path, Path]]:
    if "training" in meta:
        return {
            _stem(pair["label"]): (folder / pair["image"], folder / pair["label"])
            for pair in meta["training"]
        }
    ending = meta["file_ending"]
    labels = {p.name.removesuffix(ending): p for p in (folder / "labelsTr").glob(f"*{ending}")}
    return {n: (folder / "imagesTr" / f"{n}_0000{ending}", label) for n, label in labels.items()}


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(".gz").removesuffix(".nii")
