"""Phantoms written to disk as a labelled data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imaging.errors import BadParameter
from imaging.files import write_whole
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from training.phantoms.scan import ANNOTATED, Phantom, make_phantom
from training.phantoms.strangers import STRANGERS, make_stranger
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
        cases, seed, style, shape: as in :func:`phantom_series`.

    Raises:
        BadParameter: what :func:`phantom_series` refuses.
    """
    made = enumerate(phantom_series(cases, seed, style, shape))
    meta = {
        "name": "islet phantoms",
        "licence": "Apache-2.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(BY_NAME[n].value): n for n in ANNOTATED}},
        "islet_annotated": list(ANNOTATED),
        "islet_label_kind": "exact",
    }
    write_decathlon(out, ((f"phantom_{i:03d}", p.volume, p.labels) for i, p in made), meta)


def phantom_series(
    cases: int,
    seed: int,
    style: SiteStyle | str | None = None,
    shape: tuple[int, int, int] | None = None,
    structures: tuple[str, ...] = ANNOTATED,
) -> Iterator[Phantom]:
    """The phantoms of a set, each made when it is asked for.

    Args:
        cases: how many.
        seed: of the set; sets of different seeds share no case.
        style, shape, structures: as in :func:`make_phantom`.

    Raises:
        BadParameter: fewer than one case, or what :func:`make_phantom` refuses.
    """
    if cases < 1:
        raise BadParameter(f"A set needs at least one case, not {cases}.", cases=cases)
    for case_seed in np.random.SeedSequence(seed).generate_state(cases):
        yield make_phantom(int(case_seed), style, shape=shape, structures=structures)


def stranger_series(
    cases: int, seed: int, structures: tuple[str, ...] = ANNOTATED
) -> Iterator[Phantom]:
    """CTs without an abdomen, of every kind in turn, each made when it is asked for.

    Args:
        cases: how many.
        seed: of the set.
        structures: that are known to be absent.
    """
    for index, own in enumerate(np.random.SeedSequence(seed).generate_state(cases).tolist()):
        image = make_stranger(STRANGERS[index % len(STRANGERS)], own)
        empty = image.with_array(np.zeros(image.array.shape, np.uint8))
        yield Phantom(image, empty, structures, ())


def write_decathlon(
    out: Path, cases: Iterable[tuple[str, Volume, Volume]], meta: Mapping[str, Any]
) -> None:
    """Write cases in the Decathlon's layout.

    Args:
        out: folder, made where missing.
        cases: name, CT and label map of each.
        meta: of ``dataset.json``, without the list of cases.
    """
    pairs = []
    for name, ct, labels in cases:
        pair = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        write_nifti(ct, out / pair["image"])
        write_nifti(labels, out / pair["label"])
        pairs.append(pair)
    whole = {**meta, "numTraining": len(pairs), "training": pairs}
    write_whole(out / "dataset.json", (json.dumps(whole, indent=2) + "\n").encode())
