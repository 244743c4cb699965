"""A model whose answer is known from the Hounsfield units, and cases of boxes that it judges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.manifest import Provenance
from models.onnxfile import embed, read_manifest
from models.store import Store
from tests.serving.tiny_model import CENTRES, boxes_ct, graph, publish
from training.assess.subjects import Bench, subjects
from training.cases import Case
from training.datasets import open_dataset
from training.planting import Planted, PlantedLesion

ANNOTATED = ("pancreas", "kidney")


def model(folder: Path, *data: str, recipe: str = "test") -> Path:
    """The tiny model as a file that says that it was trained on these data sets."""
    folder.mkdir(parents=True, exist_ok=True)
    made = publish(Store(folder / "store", behind=()), folder).path
    sources = tuple({"name": name, "cases": 1, "labels": "pseudo", "licence": "X"} for name in data)
    manifest = dataclasses.replace(
        read_manifest(made), provenance=Provenance(recipe, data=sources, steps=7)
    )
    path = folder / "model.onnx"
    embed(graph(CENTRES, 3), manifest, path)
    return path


def data(folder: Path, *names: str) -> list[Case]:
    """Cases of boxes, written in the layout of single CTs; tumors are parts of their organs."""
    ct, labels = boxes_ct()
    labels[labels == 2] = 1
    entries = []
    for name in names:
        write_nifti(ct, folder / name / "ct.nii.gz")
        write_nifti(ct.with_array(labels), folder / name / "label.nii.gz")
        entries.append(
            {"case": name, "annotated": list(ANNOTATED), "provenance": name, "label": "pseudo"}
        )
    index = {"labels": {"1": "pancreas", "3": "kidney"}, "cases": entries}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return open_dataset(folder)


def bench(folder: Path) -> Bench:
    """One case of boxes and the model, which gets all of it right."""
    return Bench(subjects(str(model(folder / "model")), data(folder / "data", "boxes"))[0])


# Corners and HU of two tumors in the pancreas' box: the model takes 0 HU for a tumor, not 40.
SEEN, HIDDEN = np.s_[9:12, 12:16, 16:20], np.s_[4:6, 6:8, 17:19]


def plant(bench: Bench, *_: Any) -> Planted:
    """Two tumors, one that the model sees and a smaller one that looks like the pancreas."""
    ct, labels = bench.loaded.image, bench.loaded.labels
    hu, marked = ct.array.copy(), labels.array.copy()
    lesions = []
    for box, value in ((SEEN, 0), (HIDDEN, 40)):
        hu[box], marked[box] = value, 2
        mask = np.zeros(hu.shape, bool)
        mask[box] = True
        x, y, z = ct.geometry.to_world(np.argwhere(mask).mean(0)).tolist()
        ml = float(mask.sum()) * ct.geometry.voxel_ml
        diameter = 8.0 if value else 60.0
        lesions.append(PlantedLesion("pancreas_tumor", (x, y, z), diameter, ml, f"shape-{value}"))
    return Planted(
        Volume(hu, ct.geometry),
        Volume(marked, ct.geometry),
        (*ANNOTATED, "pancreas_tumor"),
        tuple(lesions),
    )
