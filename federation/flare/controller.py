"""The server's half of a job on FLARE: our coordinator over the engine's tasks."""

from __future__ import annotations

import hashlib
import logging
import queue
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.widgets.info_collector import InfoCollector

from federation.exchange import Reply
from federation.flare.guard import held
from federation.flare.home import STATE, read_tracking
from federation.flare.muster import GONE, VISIT
from federation.flare.package import REPLY, REQUEST, TASK, read_job
from federation.progress import ROUNDS
from imaging.errors import Cancelled, IsletError

RESULTS = ("global.onnx", ROUNDS, "matrix.json", "report.html", "report.png")
"""Files of a finished job that its coordinators are handed."""
_LOG = logging.getLogger("islet.federation")
_ROLL_CALL_S = 1.0
# As long as an orphan of a killed server needs to notice, and more.
_ORPHAN_S = 30.0


class Tasks:
    """Our exchange with sites, as tasks of FLARE: one at a time each.

    Args:
        controller: sends the tasks.
        engine: FLARE's, in the job's process.
        stop: FLARE's signal that the job was aborted.
    """

    def __init__(self, controller: Controller, engine: Any, stop: Signal) -> None:
        self._controller, self._engine, self._stop = controller, engine, stop
        self._replies: queue.Queue[tuple[Task, Reply]] = queue.Queue()
        self._standing: dict[str, Task] = {}
        self._visits: dict[str, str] = {}
        self._called = -_ROLL_CALL_S

    def present(self) -> Mapping[str, str]:
        """The sites whose processes run this job, as the server's main process counts them."""
        if time.monotonic() - self._called >= _ROLL_CALL_S:
            self._engine.sync_clients_from_main_process()
            clients: list[Client] = self._engine.get_clients()
            self._visits = {c.name: _visit(c) for c in clients if not c.get_prop(GONE)}
            self._called = time.monotonic()
        return dict(self._visits)

    def ask(self, site: str, request: bytes) -> None:
        """Put the site's next task up for it to fetch."""
        self.withdraw(site)
        visit = self._visits.get(site, "")
        data = Shareable()
        data[REQUEST] = request

        def sent(client_task: ClientTask, fl_ctx: FLContext) -> None:
            # Another process of the site than the one that was asked is not told; it is asked anew.
            if visit and self._visit_of(client_task.client) != visit:
                self._controller.cancel_task(client_task.task, fl_ctx=fl_ctx)

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            del fl_ctx
            body = client_task.result.get(REPLY)
            client_task.result = None
            reply = Reply(site, visit, body if isinstance(body, bytes) else None)
            self._replies.put((client_task.task, reply))

        task = Task(TASK, data, before_task_sent_cb=sent, result_received_cb=received)
        self._standing[site] = task
        with self._engine.new_context() as fl_ctx:
            self._controller.send(task, fl_ctx, targets=[site])

    def receive(self, seconds: float) -> Reply | None:
        """The next reply to a task that still stands."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                task, reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if self._standing.get(reply.site) is task:
                del self._standing[reply.site]
                return reply

    def withdraw(self, site: str) -> None:
        """Cancel the site's task."""
        task = self._standing.pop(site, None)
        if task is not None:
            self._controller.cancel_task(task)

    def stopped(self) -> bool:
        """Whether the engine aborts the job."""
        return bool(self._stop.triggered)

    def _visit_of(self, client: Client) -> str:
        known = {c.token: c for c in self._engine.get_clients()}.get(client.token)
        return _visit(known) if known else ""


class IsletController(Controller):  # type: ignore[misc]
    """Runs a job's coordinator in the job's process of FLARE's server."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is needed before :meth:`control_flow`."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is left after :meth:`control_flow`."""

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """A withdrawn task's late result is dropped."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Conduct the job to its end, or go on where a server that died left it."""
        # Torch takes seconds; the engine answers nobody while its components are imported.
        from federation.conduct import conduct
        from federation.coordinator import Coordinator
        from federation.tracking import tracker_of

        engine = fl_ctx.get_engine()
        job_id, workspace = fl_ctx.get_job_id(), engine.get_workspace()
        self._folder = Path(workspace.get_root_dir()) / STATE / job_id
        try:
            with held(self._folder, _ORPHAN_S):
                job = read_job(Path(workspace.get_app_config_dir(job_id)))
                names, uri = read_tracking(Path(workspace.get_root_dir()))
                conduct(
                    Coordinator(job, self._folder, job_id),
                    Tasks(self, engine, abort_signal),
                    tracker_of(job, self._folder, names, uri),
                )
        except Cancelled:
            _LOG.info("the job was aborted")
        except IsletError as error:
            _LOG.error("%s: %s", error.code, error.message)
            self.system_panic(f"{error.code}: {error.message}", fl_ctx)
        finally:
            self._hand_over(Path(workspace.get_run_dir(job_id)))

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Answer who asks how the job stands."""
        if event_type == InfoCollector.EVENT_TYPE_GET_STATS and self._folder is not None:
            history = self._folder / ROUNDS
            if history.exists():
                collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
                collector.set_info(TASK, {ROUNDS: history.read_text()})

    def _hand_over(self, run: Path) -> None:
        """Copy the results to where FLARE packs a job's download; its folder does not last."""
        out = run / STATE
        out.mkdir(parents=True, exist_ok=True)
        for name in RESULTS:
            if self._folder is not None and (self._folder / name).exists():
                shutil.copyfile(self._folder / name, out / name)


def _visit(client: Client) -> str:
    """A word for one start of a site's process."""
    # The token is a secret between a site and its server.
    return hashlib.sha256(str(client.get_prop(VISIT, client.token)).encode()).hexdigest()[:16]
