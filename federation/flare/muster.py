"""Who takes part in running jobs: sites that come late or come back, jobs that outlive a server.

NVIDIA FLARE hands a job to the sites that are there when it starts, fails it when one site's
process fails, and gives it up when the server dies. A job of ours takes sites as they come, loses
them as they go, and goes on in the round that it was in. This component lives in the server's main
process, in the engine's own calls, and changes those three things.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import SERVER_SITE_NAME, Job, JobMetaKey, RunStatus
from nvflare.apis.job_scheduler_spec import DispatchInfo
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode
from nvflare.private.defs import ClientStatusKey, TrainingTopic

from federation.flare.package import APP, MAX_SITES

VISIT, GONE = "islet_visit", "islet_gone"
"""Properties of a job's participant: a word for this start of its process; whether it is gone."""
_LOG = logging.getLogger("islet.federation")
_TICK_S = 1.0
_ANSWER_S = 10.0
# How often a site is asked whether its process runs; one that ends again and again waits longer.
_LOOK_S = 5.0
_LONGEST_WAIT_S = 300.0
_ALIVE = (RunStatus.RUNNING, RunStatus.DISPATCHED)


class Muster(FLComponent):  # type: ignore[misc]
    """Calls the roll of every running job, once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._engine: Any = None
        self._ended = threading.Event()
        self._fallen: list[str] = []
        # By job and a site's token: when its process is looked at next, and the wait after that.
        self._looks: dict[tuple[str, str], tuple[float, float]] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Start and end with the server."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            # Before the engine's job runner starts: what runs now, ran when the server died.
            self._engine = fl_ctx.get_engine()
            manager = self._engine.get_component(SystemComponents.JOB_MANAGER)
            self._fallen = [j.job_id for j in manager.get_jobs_by_status(list(_ALIVE), fl_ctx)]
            threading.Thread(target=self._run, daemon=True).start()
        elif event_type == EventType.SYSTEM_END:
            self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_TICK_S):
            for job_id in list(self._fallen):
                self._guarded(self._revive, job_id)
            for job_id in list(self._engine.run_processes):
                self._guarded(self._call_roll, job_id)

    def _guarded(self, step: Callable[[str], None], job_id: str) -> None:
        try:
            step(job_id)
        except Exception:  # noqa: BLE001
            # A site or a job that goes meanwhile; the next turn is a second away.
            _LOG.exception("job %s could not be looked after", job_id)

    def _revive(self, job_id: str) -> None:
        """Submit a job again, under its number, once a site has put the old process away.

        It is given to such sites alone: the engine fails a job that one site cannot start. The
        others join it.
        """
        clients = list(self._engine.client_manager.get_clients().values())
        idle = [client.name for client in clients if self._runs(job_id, client) is False]
        if not idle:
            return
        _LOG.info("job %s ran when the server died; it goes on", job_id)
        manager = self._engine.get_component(SystemComponents.JOB_MANAGER)
        fresh = {
            JobMetaKey.DEPLOY_MAP.value: {APP: [SERVER_SITE_NAME, *idle]},
            JobMetaKey.MIN_CLIENTS.value: 1,
            JobMetaKey.SCHEDULE_COUNT.value: 0,
            JobMetaKey.LAST_SCHEDULE_TIME.value: 0.0,
            JobMetaKey.SCHEDULE_HISTORY.value: [],
        }
        with self._engine.new_context() as fl_ctx:
            manager.update_meta(job_id, fresh, fl_ctx)
            # The engine's own mark on jobs that need no scheduling any more.
            (Path(manager.job_uri(job_id)) / "scheduled").unlink(missing_ok=True)
            manager.set_status(job_id, RunStatus.SUBMITTED, fl_ctx)
        self._fallen.remove(job_id)

    def _call_roll(self, job_id: str) -> None:
        """Bring a job's participants to what is there now."""
        running = self._engine.run_processes.get(job_id)
        if running is None:
            return
        known: Mapping[str, Client] = running[RunProcessKey.PARTICIPANTS]
        for client in known.values():
            # One site's failure must not fail the job, nor its silence hold up the end.
            self._engine.job_runner.resolve_client_outcome(job_id, client.name)
        job = self._engine.job_runner.running_jobs.get(job_id)
        if job is None or running.get(RunProcessKey.PROCESS_FINISHED):
            return
        there: dict[str, Client] = dict(self._engine.client_manager.get_clients())
        for token, client in known.items():
            if token not in there and not client.get_prop(GONE):
                _LOG.warning("job %s: site %s is gone", job_id, client.name)
                known = {**known, token: _marked(client, client.get_prop(VISIT), gone=True)}
        for client in there.values():
            known = self._welcome(job, client, known)
        # In one step: other threads read it.
        running[RunProcessKey.PARTICIPANTS] = known

    def _welcome(
        self, job: Job, client: Client, known: Mapping[str, Client]
    ) -> Mapping[str, Client]:
        """The participants after one site that is there was looked at, and started if need be."""
        before = known.get(client.token)
        key, now = (job.job_id, client.token), time.monotonic()
        others = {token: c for token, c in known.items() if c.name != client.name}
        if before is not None and not before.get_prop(GONE) and key not in self._looks:
            self._looks[key] = (now + _LOOK_S, _LOOK_S)
        due, wait = self._looks.get(key, (now, _LOOK_S))
        if now < due or len(others) >= int(job.meta.get(MAX_SITES, 1)):
            return known
        runs = self._runs(job.job_id, client)
        self._looks[key] = (now + wait, _LOOK_S if runs else min(2 * wait, _LONGEST_WAIT_S))
        if runs is None:
            return known
        started = not runs and self._start(job, client, others)
        if not runs and not started and before is None:
            return known
        visit = before.get_prop(VISIT) if runs and before is not None else uuid.uuid4().hex
        gone = not (runs or started)
        return {**others, client.token: _marked(client, visit, gone)}

    def _runs(self, job_id: str, client: Client) -> bool | None:
        """Whether a site's process of the job runs; ``None`` where the site does not say."""
        message = Message(topic=TrainingTopic.CHECK_STATUS, body="")
        with self._engine.new_context() as fl_ctx:
            reply = self._tell(client, message, fl_ctx)
        try:
            jobs = json.loads(reply.body)[ClientStatusKey.RUNNING_JOBS] if reply else None
            return None if jobs is None else job_id in {j[ClientStatusKey.JOB_ID] for j in jobs}
        except (ValueError, TypeError, KeyError):
            return None

    def _start(self, job: Job, client: Client, others: Mapping[str, Client]) -> bool:
        """Hand a job to one site and start it there."""
        engine, runner = self._engine, self._engine.job_runner
        with engine.new_context() as fl_ctx:
            found = engine.check_client_resources(job, {client.name: {}}, fl_ctx)
            enough, token = found.get(client.name, (False, ""))
            if not enough:
                return False
            app = job.get_application(APP, fl_ctx)
            deploy = runner._make_deploy_message(job, app, APP, fl_ctx)
            reply = self._tell(client, deploy, fl_ctx)
            if reply is None or reply.get_header(MsgHeader.RETURN_CODE) != ReturnCode.OK:
                _LOG.warning("job %s: site %s does not take it", job.job_id, client.name)
                return False
            members = [*others.values(), client]
            job.meta[JobMetaKey.JOB_CLIENTS] = [member.to_dict() for member in members]
            info = {client.name: DispatchInfo(APP, {}, token)}
            engine.start_client_job(job, info, fl_ctx)
        _LOG.info("job %s: site %s joins", job.job_id, client.name)
        return True

    def _tell(self, client: Client, message: Message, fl_ctx: FLContext) -> Message | None:
        admin = self._engine.server.admin_server
        replies = admin.send_requests(
            {client.token: message}, fl_ctx, timeout_secs=_ANSWER_S, optional=True
        )
        return replies[0].reply if replies else None


def _marked(client: Client, visit: str | None, gone: bool) -> Client:
    """A participant with its visit; the engine's own record of the site is left alone."""
    copy = Client(client.name, client.token)
    copy.props = {**client.props, VISIT: visit or client.token, GONE: gone}
    copy.last_connect_time = client.last_connect_time
    return copy
