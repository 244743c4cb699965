"""nnU-Net raw folders (version 2): ``imagesTr/NAME_0000.ext`` and ``labelsTr/NAME.ext``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from imaging.files import write_whole
from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import description, mapped_cases
from training.datasets.stored import annotated, stored_map
from training.phantoms.scan import Phantom

PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
INSIDE = ("Dataset*",)
# KiTS23 as nnU-Net takes it: regions that hold one another.
MADE: Mapping[str, Any] = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}


def marks(folder: Path) -> bool:
    """A ``dataset.json`` that states the ending of the files."""
    return "file_ending" in description(folder)


def cases(folder: Path) -> list[Case]:
    """The labelled cases of a folder such as ``Dataset220_KiTS2023``.

    A label may be a region, a list of values: each value then means the smallest region that
    holds it, ``{"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}`` a kidney, a tumor and a
    cyst. ``labelsTs`` beside ``imagesTs``, where there is one, is the test split.

    Raises:
        DataError: ``dataset.json`` does not parse, the first channel is no CT, a label is
            ``ignore``, no label means a structure, or an image is not there.
    """
    try:
        meta = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        names = label_names(meta["labels"])
        ending = str(meta["file_ending"])
        channel = str(meta.get("channel_names", {}).get("0", "CT"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder.name}/dataset.json is not in nnU-Net's form ({error!r})."
        ) from error
    if channel.upper() != "CT":
        raise DataError(f"{folder.name}: channel 0 is {channel!r}; Islet learns CT.")
    if "ignore" in names.values():
        raise DataError(
            f"{folder.name}: the label 'ignore' leaves voxels open; Islet learns from label maps "
            "that are whole. Leave those cases out and drop the label."
        )
    title = str(meta.get("name", folder.name))
    source = {
        "name": title,
        "licence": str(meta.get("licence", meta.get("license", "not stated"))),
        "labels": str(meta.get("islet_label_kind", "as published")),
    }
    found = []
    for part, split in (("Tr", "train"), ("Ts", "test")):
        pairs = _pairs(folder / f"images{part}", folder / f"labels{part}", ending)
        found += mapped_cases(pairs, names, source, title, split)
    return found


def label_names(labels: Mapping[str, Any]) -> dict[int, str]:
    """The name of each label value, that of the smallest region where several hold it."""
    sizes: dict[int, int] = {}
    names: dict[int, str] = {}
    for name, region in labels.items():
        values = [int(v) for v in (region if isinstance(region, list) else [region])]
        for value in values:
            if value and len(values) < sizes.get(value, len(labels) + 256):
                sizes[value], names[value] = len(values), str(name)
    return dict(sorted(names.items()))


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms with the labels of KiTS23 as regions."""
    count = 0
    for count, phantom in enumerate(phantoms, 1):
        name = f"case_{count - 1:05d}"
        write_nifti(phantom.volume, out / "imagesTr" / f"{name}_0000.nii.gz")
        labels = stored_map(phantom.labels, label_names(MADE))
        write_nifti(labels, out / "labelsTr" / f"{name}.nii.gz")
    meta = {
        "name": "phantoms",
        "channel_names": {"0": "CT"},
        "labels": MADE,
        "regions_class_order": [1, 3, 2],
        "numTraining": count,
        "file_ending": ".nii.gz",
        "licence": "Apache-2.0",
        "islet_label_kind": "exact",
    }
    write_whole(out / "dataset.json", (json.dumps(meta, indent=2) + "\n").encode())


def made_structures() -> tuple[str, ...]:
    """What the made sets annotate."""
    return annotated(label_names(MADE))


def _pairs(images: Path, labels: Path, ending: str) -> Iterator[tuple[str, Path, Path]]:
    for label in sorted(labels.glob(f"*{ending}")):
        name = label.name.removesuffix(ending)
        yield name, images / f"{name}_0000{ending}", label
