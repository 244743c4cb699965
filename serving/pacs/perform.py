"""The two kinds of jobs that end in an archive: fetched by DICOMweb, or received by DIMSE."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imaging.errors import SeriesNotFound
from serving.jobs.spool import INPUT
from serving.jobs.task import Done, Task
from serving.options import Options
from serving.outputs import REPORT
from serving.pacs.archive import Archive
from serving.pacs.config import load
from serving.pacs.peers import send
from serving.pacs.rules import Choice, choose, load_rules, rejected_json
from serving.pacs.uids import Renamer
from serving.segment import Segmentation, files, segment

# Stores what it is given, by name of the file; gives the SOPInstanceUID of each.
Store = Callable[[Mapping[str, Path]], list[str]]


def perform_dicomweb(task: Task) -> Done:
    """Fetch a series by WADO-RS, segment it and store its DICOM outputs by STOW-RS.

    The request has ``server``, ``study``, ``series`` (or ``None``), ``rules`` (whether a named
    series must pass them too), ``store`` (a server's name, or ``None``) and ``options``.

    Raises:
        PacsError: an archive failed, or some objects were not stored.
        NoSuitableSeries, SeriesNotFound: no series to take.
        IsletError: see ``serving.segment.segment``.
    """
    asked = task.job.request
    pacs = load(task.settings.pacs)
    limits = task.settings.limits
    # Both must be there before anything is fetched.
    server = pacs.server(asked["server"])
    target = pacs.server(asked["store"]) if asked["store"] else None
    folder = _empty(task.folder / "fetched")
    with Archive(server, limits) as archive:
        task.progress("find", 0.0)
        choice = _select(task, archive)
        found = archive.fetch(asked["study"], choice.series, folder, task.progress)
    options = replace(Options.from_json(asked["options"]), series=choice.series.uid)
    made = segment(found, options, task.engines, limits, task.progress)
    shutil.rmtree(folder)
    said = {
        "server": server.name,
        "study": asked["study"],
        "series": choice.series.uid,
        "rejected": rejected_json(choice.rejected),
        "stored_on": target.name if target else None,
    }

    def store(objects: Mapping[str, Path]) -> list[str]:
        if target is None:
            return []
        with Archive(target, limits) as archive:
            return archive.store(asked["study"], objects, task.progress)

    return _finish(task, made, said, store)


def perform_dimse(task: Task) -> Done:
    """Segment a series that the listener took in and send its DICOM outputs by C-STORE.

    The request has ``peer`` (a name), ``aet`` (the listener's title), ``series`` and ``options``.

    Raises:
        PacsError: the peer did not take all objects.
        IsletError: see ``serving.segment.segment``.
    """
    asked = task.job.request
    peer = load(task.settings.pacs).peer(asked["peer"])
    options = Options.from_json(asked["options"])
    found = sorted((task.folder / INPUT).iterdir())
    made = segment(found, options, task.engines, task.settings.limits, task.progress)
    said = {"series": asked["series"], "stored_on": peer.name}

    def store(objects: Mapping[str, Path]) -> list[str]:
        return send(peer, asked["aet"], objects, task.progress)

    return _finish(task, made, said, store)


def _select(task: Task, archive: Archive) -> Choice:
    """The series to fetch; its number of instances is known."""
    asked = task.job.request
    study, wanted = asked["study"], asked["series"]
    found = archive.series(study)
    if wanted is not None:
        found = [series for series in found if series.uid == wanted]
        if not found:
            raise SeriesNotFound(
                f"{asked['server']} has no series {wanted} in the study; check both UIDs.",
                asked=wanted,
            )
        if not asked["rules"]:
            named = found[0]
            whole = named if named.instances else archive.described(study, named)
            return Choice(whole, {})
    rules = load_rules(task.settings.rules)
    return choose(rules, found, lambda series: archive.described(study, series))


def _finish(task: Task, made: Segmentation, said: Mapping[str, Any], store: Store) -> Done:
    """Every file of the result; the DICOM ones are stored before the report that says so."""
    report: dict[str, Any] = {}

    def kept() -> Iterator[tuple[str, bytes]]:
        rename, folder = Renamer(task.job.id), _empty(task.folder / "objects")
        objects: dict[str, Path] = {}
        for name, data in files(made):
            if name.endswith(".dcm"):
                data = rename(name, data)
                objects[name] = folder / name
                objects[name].write_bytes(data)
            elif name == REPORT:
                report.update(json.loads(data))
                report["pacs"] = {**said, "stored": store(objects)}
                data = (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()
            yield name, data

    return Done(kept(), report)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
