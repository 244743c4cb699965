"""Data set layouts by name. To add one: a file here and an entry in ``DATASETS``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from imaging.errors import BadParameter, DataError
from training.cases import Case
from training.datasets import (
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
from training.datasets.layout import Layout

__all__ = ["DATASETS", "Layout", "layout_of", "listed_cases", "open_dataset", "open_datasets"]

DATASETS: Mapping[str, Layout] = {
    "decathlon": Layout(decathlon.marks, decathlon.cases, decathlon.INSIDE, decathlon.PARTS),
    "nnunet": Layout(nnunet.marks, nnunet.cases, nnunet.INSIDE, nnunet.PARTS),
    "kits19": Layout(kits.marks_2019, kits.cases_2019, kits.INSIDE),
    "kits21": Layout(kits.marks_2021, kits.cases_2021, kits.INSIDE),
    "kits23": Layout(kits.marks_2023, kits.cases_2023, kits.INSIDE),
    "btcv": Layout(btcv.marks, btcv.cases, btcv.INSIDE, btcv.PARTS),
    "nih_pancreas": Layout(nih_pancreas.marks, nih_pancreas.cases, (), nih_pancreas.PARTS),
    "amos": Layout(amos.marks, amos.cases, amos.INSIDE, amos.PARTS),
    "flare": Layout(flare.marks, flare.cases, flare.INSIDE, flare.PARTS),
    "panorama": Layout(panorama.marks, panorama.cases, (), panorama.PARTS),
    "totalsegmentator": Layout(
        totalsegmentator.marks, totalsegmentator.cases, totalsegmentator.INSIDE
    ),
    "ct_index": Layout(ct_index.marks, ct_index.cases),
}


def layout_of(folder: Path) -> str:
    """The name of the layout that a folder has.

    A folder that is a root itself is taken at that; else the layouts look where their sets are
    commonly unpacked, and above where the folder is one of a layout's own.

    Raises:
        DataError: none, or several.
    """
    found = {name: root for name, layout in DATASETS.items() if (root := layout.root(folder))}
    found = {name: root for name, root in found.items() if root == folder} or found
    if len(found) == 1:
        return next(iter(found))
    if found:
        places = ", ".join(f"{name} in {root}" for name, root in found.items())
        raise DataError(f"{folder} holds several data sets ({places}); name the folder of one.")
    raise DataError(
        f"{folder} is no data set of a known layout ({', '.join(DATASETS)}); name its folder."
    )


def open_dataset(folder: Path) -> list[Case]:
    """The cases of a folder, whichever known layout it has.

    Raises:
        DataError: no known layout or several, no case, what does not parse, or a case whose files
            are not all there.
    """
    cases = listed_cases(folder)
    for case in cases:
        for path in case.files:
            if not path.exists():
                raise DataError(
                    f"Case {case.name}: needs {path.parent.name}/{path.name}, which is not there; "
                    "complete the download.",
                    case=case.name,
                )
    return cases


def open_datasets(folders: Sequence[Path]) -> list[Case]:
    """The cases of several folders together.

    Raises:
        BadParameter: two cases of one name.
        DataError: of :func:`open_dataset`.
    """
    cases = [case for folder in folders for case in open_dataset(folder)]
    names = [case.name for case in cases]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise BadParameter(f"Several data sets hold a case named {double}; rename one of each.")
    return cases


def listed_cases(folder: Path) -> list[Case]:
    """The cases that a data set lists, whether or not their files are there.

    Raises:
        DataError: no known layout or several, no case, or what does not parse.
    """
    return DATASETS[layout_of(folder)].read(folder)
