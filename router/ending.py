"""The end of the process, which nothing that hangs may hold up."""

from __future__ import annotations

import logging
import os
import threading

_log = logging.getLogger(__name__)


def leave_hung_threads_behind(seconds: float) -> None:
    """End the process after so many seconds from now, with exit code 0, unless it has ended by itself.

    Call it when everything is closed: event loop and interpreter wait for their threads as they end, and one that reads
    or writes on a disk that hangs cannot be called off.
    """

    def leave() -> None:
        others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
        hung = ", ".join(sorted(thread.name for thread in others if not thread.daemon))
        _log.error("ending though threads hang, most likely on a disk: %s", hung or "none, the machine is slow")
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
