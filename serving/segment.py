"""The pipeline: files of a CT in; label map, masks, DICOM objects, a picture and a report out.

The command line and the service's workers both run :func:`segment` and keep :func:`files`, so they
give the same result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from imaging.errors import NotDicom
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.nifti import GZIP_MAGIC, is_nifti
from imaging.read import read_volume
from imaging.threads import usable_cores
from imaging.volume import Volume
from imaging.writers.nifti import encode_nifti
from models.labels import values
from models.predict import Progress, predict
from serving.engines import Engines
from serving.findings import notes
from serving.options import Options
from serving.outputs import CT, DICOM_FILES, LABELS, PREVIEW, REPORT, Coded, coded, dicom_files
from serving.preview import preview_png
from serving.report import report


class Stopwatch:
    """Seconds by step, fed by the pipeline's progress calls.

    Args:
        progress: told what the stopwatch is told; raising in it stops the work.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._last = time.perf_counter()
        self._step = ""

    def __call__(self, step: str, part: float) -> None:
        """``part`` of ``step`` is done; the time since the last call went into it.

        At ``part`` 0 the step begins, and that time went into the step before.
        """
        if self._progress is not None:
            self._progress(step, part)
        now = time.perf_counter()
        charged = step if part > 0 else self._step
        if charged:
            self.seconds[charged] = self.seconds.get(charged, 0.0) + now - self._last
        self._last, self._step = now, step


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a CT gave.

    Attributes:
        labels: label map (Z, Y, X), uint8 values of ``models.labels``, on the input's grid, with
            the input's DICOM headers where a DICOM output was asked for.
        masks: names of the masks that were asked for.
        outputs: names of the outputs that were asked for.
        coded: what DICOM outputs say of it; ``None`` where none was asked for.
        report: see ``serving.report``; its ``seconds`` grow until the files are written.
        watch: the clock behind them.
        kept: files made while the CT was in memory, by name.
    """

    labels: Volume
    masks: tuple[str, ...]
    outputs: tuple[str, ...]
    coded: Coded | None
    report: dict[str, Any]
    watch: Stopwatch
    kept: dict[str, bytes] = field(default_factory=dict)

    def mask(self, name: str) -> Volume:
        """The named mask (Z, Y, X), uint8 0 and 1, on the input's grid; made when called."""
        made = np.zeros(self.labels.array.shape, np.uint8)
        box = self.report["masks"][name]["bounding_box"]
        if box is not None:
            # Outside the box nothing is read or written, so most of a mask costs no memory traffic.
            inside = tuple(map(slice, box["start"], box["stop"]))
            labels, wanted = self.labels.array[inside], made[inside].view(np.bool_)
            for value in values(name):
                wanted |= labels == value
        return self.labels.with_array(made)


def segment(
    source: Path | Sequence[Path],
    options: Options,
    engines: Engines,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment a CT.

    The model and the parameters are checked before the CT is read. Lesions are not looked for where
    no asked mask tells them from their organs.

    Args:
        source: what ``imaging.read.read_volume`` takes.
        options: model, masks, series, device and outputs.
        engines: loaded models over a store.
        limits: on the input.
        progress: told of every step; raising in it stops the work.

    Raises:
        BadParameter, ModelError, DeviceUnavailable: the request is at fault, or the store.
        InputError: the CT is; ``NotDicom`` where DICOM outputs are asked of a CT that is none.
    """
    watch = Stopwatch(progress)
    watch("load", 0.0)
    model = engines.store.resolve(options.model)
    masks = options.masks_of(model.manifest)
    engine = engines.get(model, options.device, options.organs_alone(model.manifest))
    # What is asked for may be found by a part of the network; all that follows is of that part.
    model = engine.model
    watch("read", 0.0)
    volume = _read(source, options, limits)
    keep = options.doubtful == "keep"
    found = predict(volume, model.manifest, engine, watch, keep, engine.finder)
    said = (*options.notes(model.manifest), *notes(found.findings, model.manifest))
    labels = Volume(
        np.ascontiguousarray(found.labels.array),
        found.labels.geometry,
        (*volume.warnings, *said),
        volume.source,
    )
    watch("report", 0.0)
    kept = {PREVIEW: preview_png(volume, labels, masks)}
    made = report(
        labels, found.findings, model, masks, options.outputs, _origin(source), engine.device
    )
    if "ct" in options.outputs:
        kept[CT] = encode_nifti(volume)
    # The CT is not needed any more: what follows works on the label map alone.
    del volume, found
    watch("report", 1.0)
    codes = coded(masks, model) if options.dicom else None
    return Segmentation(labels, masks, options.outputs, codes, made, watch, kept)


def files(segmentation: Segmentation) -> Iterator[tuple[str, bytes]]:
    """Every file of the result, by name: what was asked for, the preview, last the report.

    NIfTI files are made and packed in as many threads as there are cores; no more masks than that
    are in memory at a time.
    """
    watch, kept = segmentation.watch, segmentation.kept
    watch("write", 0.0)
    if "nifti" in segmentation.outputs:
        yield from _nifti_files(segmentation)
    if CT in kept:
        yield CT, kept[CT]
    if segmentation.coded is not None:
        making = dicom_files(segmentation.outputs, segmentation.labels, segmentation.coded)
        for done, (name, make) in enumerate(making):
            watch("write", (1 + done) / (2 + len(DICOM_FILES)))
            yield name, make()
    yield PREVIEW, kept[PREVIEW]
    watch("write", 1.0)
    yield REPORT, encode_report(segmentation)


def _nifti_files(segmentation: Segmentation) -> Iterator[tuple[str, bytes]]:
    """The label map and the masks."""
    makers: list[Callable[[], Volume]] = [lambda: segmentation.labels]
    makers += [partial(segmentation.mask, name) for name in segmentation.masks]
    names = (LABELS, *(f"{name}.nii.gz" for name in segmentation.masks))
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from zip(names, pool.map(lambda made: encode_nifti(made()), makers), strict=True)


def encode_report(segmentation: Segmentation) -> bytes:
    """The report with the seconds so far, as JSON."""
    seconds = {step: round(s, 4) for step, s in segmentation.watch.seconds.items()}
    seconds["total"] = round(sum(segmentation.watch.seconds.values()), 4)
    whole = segmentation.report | {"seconds": seconds}
    return (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode()


def _read(source: Path | Sequence[Path], options: Options, limits: Limits) -> Volume:
    """The CT, with its DICOM headers where an output is made of them."""
    volume = read_volume(source, options.series, limits, headers=bool(options.dicom))
    if options.dicom and volume.source is None:
        raise NotDicom(
            f"The CT is NIfTI, and {options.dicom[0]} refers to the DICOM images it was made "
            "from; send the DICOM series, or ask for other outputs.",
            outputs=list(options.dicom),
        )
    return volume


def _origin(source: Path | Sequence[Path]) -> dict[str, Any]:
    """Format by content, and bytes, of an input that was read."""
    if isinstance(source, Path):
        found = [p for p in source.rglob("*") if p.is_file()] if source.is_dir() else [source]
    else:
        found = list(source)
    with found[0].open("rb") as file:
        head = file.read(352)
    kind = "dicom"
    if head.startswith(b"PK"):
        kind = "zip"
    elif head.startswith(GZIP_MAGIC) or is_nifti(head):
        kind = "nifti"
    return {"format": kind, "bytes": sum(p.stat().st_size for p in found)}
