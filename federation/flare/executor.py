"""A site's half of a job on FLARE: requests in, replies out, and no text of an error."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReservedKey, ReservedTopic, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from federation.flare.guard import held
from federation.flare.home import STATE, read_home
from federation.flare.package import REPLY, REQUEST, read_job

if TYPE_CHECKING:
    from federation.site import Site

_LOG = logging.getLogger("islet.federation")
_ORPHAN_S = 30.0
_STILL_WANTED_S = 15.0
_SERVER = "server"


class IsletExecutor(Executor):  # type: ignore[misc]
    """Hands the requests of a job to the site's own code."""

    def __init__(self) -> None:
        super().__init__()
        self._site: Site | None = None

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """The reply to one request; without one where the site's code failed.

        What went wrong is written to the site's own log. The text of an error may name a folder or
        a case, and does not leave the site.
        """
        del task_name
        workspace, job_id = fl_ctx.get_workspace(), fl_ctx.get_job_id()
        kit = Path(workspace.get_root_dir())
        wanted = _Wanted(fl_ctx, shareable, abort_signal)
        try:
            with held(kit / STATE / job_id, _ORPHAN_S):
                if self._site is None:
                    # Torch takes seconds; the server hears nothing while components are imported.
                    from federation.site import Site

                    job = read_job(Path(workspace.get_app_config_dir(job_id)))
                    self._site = Site(job, read_home(kit), job_id)
                body = self._site.handle(shareable[REQUEST], wanted.stop)
        except Exception:  # noqa: BLE001
            _LOG.exception("the request failed")
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
        reply = make_reply(ReturnCode.OK)
        reply[REPLY] = body
        return reply


class _Wanted:
    """Whether the server still waits for a task; a withdrawn one is not worth its training."""

    def __init__(self, fl_ctx: FLContext, task: Shareable, abort: Signal) -> None:
        self._fl_ctx, self._abort = fl_ctx, abort
        self._request = Shareable()
        self._request.set_header(ReservedKey.TASK_ID, task.get_header(ReservedKey.TASK_ID))
        self._asked = time.monotonic()
        self._withdrawn = False

    def stop(self) -> bool:
        """Asked between steps; the server is asked four times a minute."""
        if not self._withdrawn and time.monotonic() - self._asked >= _STILL_WANTED_S:
            self._asked = time.monotonic()
            self._withdrawn = self._ask() == ReturnCode.TASK_UNKNOWN
        return self._withdrawn or bool(self._abort.triggered)

    def _ask(self) -> str:
        replies = self._fl_ctx.get_engine().send_aux_request(
            targets=[_SERVER],
            topic=ReservedTopic.TASK_CHECK,
            request=self._request,
            timeout=2.0,
            fl_ctx=self._fl_ctx,
            optional=True,
        )
        reply = replies.get(_SERVER) if isinstance(replies, dict) else None
        return str(reply.get_return_code()) if isinstance(reply, Shareable) else ""
