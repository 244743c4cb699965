"""Gives every worker process that finds this folder on its path kinds of work that misbehave."""

import os
import signal
import sys
import time

if "serving.workers.worker" in sys.orig_argv:
    from serving.jobs.task import Done
    from serving.workers import work

    def slow(task):
        """Stops when told to; ends by itself after ``seconds``."""
        began = time.monotonic()
        while (gone := time.monotonic() - began) < task.job.request["seconds"]:
            task.progress("sleep", gone / task.job.request["seconds"])
            time.sleep(0.02)
        return Done([("report.json", b"{}")], {"pid": os.getpid()})

    def stuck(task):
        """Hears nothing."""
        task.progress("sleep", 0.0)
        time.sleep(60)

    def poison(task):
        """Kills the worker."""
        os.kill(os.getpid(), signal.SIGKILL)

    work.KINDS |= {"slow": slow, "stuck": stuck, "poison": poison}
