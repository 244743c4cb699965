"""Phantoms written to disk as a labelled data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from imaging.errors import BadParameter
from imaging.files import write_whole
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from training.phantoms.scan import ANNOTATED, make_phantom
from training.phantoms.styles import SiteStyle


def write_set(
    out: Path,
    cases: int,
    seed: int,
    style: SiteStyle | str | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
) -> None:
    """Write a labelled data set in the Medical Segmentation Decathlon's layout.

    ``dataset.json`` beside ``imagesTr/`` and ``labelsTr/`` (.nii.gz); its key ``islet_annotated``
    lists the annotated structures.

    Args:
        out: folder, made where missing.
        cases: how many.
        seed: of the set; sets of different seeds share no case.
        style, shape: as in :func:`make_phantom`.

    Raises:
        BadParameter: fewer than one case, or what :func:`make_phantom` refuses.
    """
    if cases < 1:
        raise BadParameter(f"A set needs at least one case, not {cases}.", cases=cases)
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    pairs = []
    for index, case_seed in enumerate(np.random.SeedSequence(seed).generate_state(cases)):
        phantom = make_phantom(int(case_seed), style, shape=shape)
        name = f"phantom_{index:03d}.nii.gz"
        write_nifti(phantom.volume, out / "imagesTr" / name)
        write_nifti(phantom.labels, out / "labelsTr" / name)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    meta = {
        "name": "islet phantoms",
        "licence": "Apache-2.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(BY_NAME[n].value): n for n in ANNOTATED}},
        "numTraining": cases,
        "training": pairs,
        "islet_annotated": list(ANNOTATED),
        "islet_label_kind": "exact",
    }
    write_whole(out / "dataset.json", (json.dumps(meta, indent=2) + "\n").encode())
