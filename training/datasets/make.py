"""Phantoms written in the layouts of public data sets: everything can be tried without a download.

A made set has the layout's own file names, label values and descriptions, holds labels of what
that layout annotates and nothing else, and says in ``islet_source.json`` that it was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imaging.errors import BadParameter
from imaging.files import write_whole
from training.datasets import (
    DATASETS,
    amos,
    btcv,
    ct_index,
    decathlon,
    flare,
    kits,
    nih_pancreas,
    nnunet,
    panorama,
    totalsegmentator,
)
from training.datasets.layout import SOURCE
from training.datasets.stored import annotated
from training.phantoms.scan import PAINTED, Phantom
from training.phantoms.sets import phantom_series
from training.phantoms.styles import SiteStyle


@dataclass(frozen=True)
class Maker:
    """What a layout annotates, and the function that writes phantoms with just those labels."""

    structures: tuple[str, ...]
    write: Callable[[Path, Iterable[Phantom]], None]


_TASKS = {
    name: Maker(task.structures, partial(decathlon.write, task))
    for name, task in decathlon.TASKS.items()
}
MAKERS: Mapping[str, Maker] = {
    "decathlon": _TASKS["pancreas"],
    **{f"decathlon:{name}": maker for name, maker in _TASKS.items()},
    "nnunet": Maker(nnunet.made_structures(), nnunet.write),
    "kits19": Maker(annotated(kits.NAMES_2019), kits.write_2019),
    "kits21": Maker(annotated(kits.NAMES), kits.write_2021),
    "kits23": Maker(annotated(kits.NAMES), kits.write_2023),
    "btcv": Maker(annotated(btcv.NAMES), btcv.write),
    "nih_pancreas": Maker(annotated(nih_pancreas.NAMES), nih_pancreas.write),
    "amos": Maker(annotated(amos.NAMES), amos.write),
    "flare": Maker(annotated(flare.YEAR_2022.names), flare.write),
    "panorama": Maker(annotated(panorama.NAMES), panorama.write),
    "totalsegmentator": Maker(tuple(totalsegmentator.CLASSES), totalsegmentator.write),
    "ct_index": Maker(PAINTED, ct_index.write),
}


def make_set(
    layout: str,
    out: Path,
    cases: int,
    seed: int,
    style: SiteStyle | str | None = None,
    shape: tuple[int, int, int] | None = None,
) -> None:
    """Write a set of phantoms in a layout.

    Args:
        layout: of ``MAKERS``; ``decathlon:TASK`` names one of the Decathlon's abdominal tasks,
            ``decathlon`` alone is its pancreas task.
        out: a new or empty folder, the root of the set (``btcv`` puts ``RawData`` into it).
        cases: how many.
        seed: of the set; sets of different seeds share no case.
        style, shape: as in :func:`training.phantoms.make_phantom`.

    Raises:
        BadParameter: no such layout, a folder that is not empty, fewer than one case, or what
            ``make_phantom`` refuses.
    """
    if layout not in MAKERS:
        raise BadParameter(
            f"There is no layout {layout[:64]!r} to make; choose from {', '.join(MAKERS)}."
        )
    if out.exists() and any(out.iterdir()):
        raise BadParameter(f"{out} is not empty; name a new folder, a set is never mixed.")
    maker = MAKERS[layout]
    maker.write(out, phantom_series(cases, seed, style, shape, maker.structures))
    source = {
        "name": f"procedural phantoms in the layout {layout}",
        "licence": "Apache-2.0",
        "labels": "exact",
    }
    root = DATASETS[layout.partition(":")[0]].root(out) or out
    write_whole(root / SOURCE, (json.dumps(source, indent=2) + "\n").encode())
