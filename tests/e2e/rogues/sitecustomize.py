"""Makes every Python process that finds this folder on its path a site that behaves badly.

How is said by the variable ISLET_ROGUE: ``nan``, ``shape`` or ``slow``. Real processes with real
certificates are needed for what no honest release of Islet would send.
"""

import os
import sys
import time

KIND = os.environ.get("ISLET_ROGUE")

# Only the process that trains; importing torch into the others would take seconds of each.
if KIND and "worker_process" in " ".join(sys.orig_argv):
    import numpy as np

    from federation import message
    from federation.site import Site

    honest = Site.handle

    def handle(self, request, *args):
        start = time.monotonic()
        body = honest(self, request, *args)
        header, arrays = message.unpack(body)
        if "attempt" not in header:
            return body
        if KIND == "slow":
            # Three times as long as the others, and long enough to be seen.
            time.sleep(2 * max(1.0, time.monotonic() - start))
            return body
        name = next(n for n in sorted(arrays) if n.endswith("weight"))
        bad = np.full_like(arrays[name], np.nan) if KIND == "nan" else arrays[name][:1]
        return message.pack(header, {**arrays, name: bad})

    Site.handle = handle
