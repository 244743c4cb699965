"""What a job ends with: the chosen global model as ONNX, the matrix of scores, the report."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np

from federation import message
from federation.coordinator import MATRIX, Coordinator
from federation.parts import NORMS, put
from federation.progress import Matrix
from federation.report import write_report
from federation.strategies import strategy
from federation.unseen import pooled
from imaging.files import write_whole
from training.package import export_recipe, provenance_of
from training.trainer import initial_network

GLOBAL_MODEL = "global.onnx"
_LOG = logging.getLogger("islet.federation")


def finish(coordinator: Coordinator) -> bytes:
    """Choose, export and report; the last request to the sites.

    Writes ``global.onnx``, ``matrix.json`` and the report into the coordinator's folder. A job
    whose heads stay at their sites has no global model, and neither has one of a single site, or
    one whose normalisation layers stay and none of whose sites lets them out; its sites have
    theirs.
    """
    job, folder = coordinator.job, coordinator.folder
    matrix = coordinator.candidates.matrix(coordinator.cases, job.rule)
    write_whole(
        folder / MATRIX, json.dumps(dataclasses.asdict(matrix), indent=1, sort_keys=True).encode()
    )
    path = _export(coordinator, matrix)
    write_report(coordinator.history(), folder)
    header = {"kind": "finish", "chosen": matrix.chosen}
    onnx = np.frombuffer(path.read_bytes(), np.uint8) if path else None
    return message.pack(header, {} if onnx is None else {"onnx": onnx})


def _export(coordinator: Coordinator, matrix: Matrix) -> Path | None:
    """The chosen model with its manifest, where the server has all of it."""
    job, name = coordinator.job, matrix.chosen
    if job.local_head or job.max_sites == 1:
        _LOG.info("heads stay at their sites, or there is one site: no global model is written")
        return None
    network = initial_network(job.recipe)
    put(network, coordinator.candidates.weights(name))
    if NORMS in strategy(job.strategy).keeps:
        norms = coordinator.candidates.norms(name)
        if not norms:
            _LOG.warning("no site lets its normalisation layers out: no global model is written")
            return None
        sites = sorted(norms)
        put(network, pooled([norms[s] for s in sites], [coordinator.cases[s] for s in sites]))
    done = int(name.rpartition("-")[2])
    steps = done * job.local_epochs * job.recipe.steps_per_epoch
    total = sum(coordinator.cases.values())
    own = {"name": "federation", "sites": len(coordinator.sites), "cases": total}
    provenance = dataclasses.replace(
        provenance_of(job.recipe, (), 0, steps),
        scope="global",
        round=done,
        job=coordinator.job_id or job.name,
        data=(own, *coordinator.before),
    )
    path = coordinator.folder / GLOBAL_MODEL
    scores = {"federation": dict(matrix.scores.get(name, {}))}
    export_recipe(network.eval(), job.recipe, provenance, path, scores=scores)
    return path
