"""What a worker does for each kind of job, and how its result is packed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.errors import EmptyInput
from imaging.files import whole_file
from serving.engine import Engines
from serving.jobs.record import Job
from serving.jobs.spool import INPUT
from serving.options import Options
from serving.outputs import REPORT, media_type
from serving.segment import files, segment
from serving.settings import Settings

# Zip members have no time of their own: equal results give equal archives.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Task:
    """One job in a worker's hands.

    Attributes:
        job: its record when it was taken.
        folder: of this attempt: what was uploaded lies in ``input``; the rest is free scratch,
            removed when the attempt is over.
        settings: of the service.
        engines: loaded models over the store.
        progress: to be called with a step and its done part (0 to 1) several times a second;
            raises ``IsletError`` when the work must stop.
    """

    job: Job
    folder: Path
    settings: Settings
    engines: Engines
    progress: Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Done:
    """What work gives.

    Attributes:
        files: name and bytes of each file of the result, made while they are taken.
        report: JSON-serialisable; read after the last file was taken, so it may be filled late.
    """

    files: Iterable[tuple[str, bytes]]
    report: dict[str, Any]


Perform = Callable[[Task], Done]


def perform_segment(task: Task) -> Done:
    """Segment the uploaded CT; the request is ``Options.to_json``.

    Raises:
        IsletError: see ``serving.segment.segment``.
    """
    found = sorted(path for path in (task.folder / INPUT).iterdir() if path.is_file())
    if not found:
        raise EmptyInput("The job holds no file; send a CT.")
    options = Options.from_json(task.job.request)
    source = found[0] if len(found) == 1 else found
    made = segment(source, options, task.engines, task.settings.limits, task.progress)
    report: dict[str, Any] = {}

    def kept() -> Iterator[tuple[str, bytes]]:
        for name, data in files(made):
            if name == REPORT:
                report.update(json.loads(data))
            yield name, data

    return Done(kept(), report)


def _dicomweb(task: Task) -> Done:
    from serving.pacs.perform import perform_dicomweb

    return perform_dicomweb(task)


def _dimse(task: Task) -> Done:
    from serving.pacs.perform import perform_dimse

    return perform_dimse(task)


# The archives' clients load when the first of their jobs comes.
KINDS: dict[str, Perform] = {
    "segment": perform_segment,
    "dicomweb": _dicomweb,
    "dimse": _dimse,
}


def pack(done: Done, path: Path) -> dict[str, Any]:
    """Write the files of a result into one zip, stored, whole and on the disk itself.

    Returns:
        The ``result`` of a job's record.
    """
    listed: list[dict[str, Any]] = []
    with whole_file(path, durable=True) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in done.files:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            listed.append({"name": name, "type": media_type(name), "bytes": len(data)})
    return {"files": listed, "report": done.report}
