"""What a worker does for each kind of job, and how its result is packed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imaging.errors import EmptyInput
from imaging.files import whole_file
from serving.jobs.spool import INPUT
from serving.jobs.task import Done, Perform, Task
from serving.options import Options
from serving.outputs import REPORT, media_type
from serving.segment import files, segment

# Zip members have no time of their own: equal results give equal archives.
_EPOCH = (1980, 1, 1, 0, 0, 0)


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
