"""Signals for a child and all that came of it.

On POSIX a child leads a process group of its own, and a signal goes to the group. Windows has no such thing; there the
tree below the process is ended as psutil finds it, which is best effort: a grandchild whose parent has gone is missed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil


def terminate_group(pid: int) -> None:
    """Ask the group led by `pid` to end."""
    _signal(pid, signal.SIGTERM)


def kill_group(pid: int) -> None:
    """End the group led by `pid` at once; nothing happens when there is none."""
    _signal(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    if sys.platform == "win32":
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for member in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.Error):
                    member.kill()
        return
    # EPERM is what macOS says about a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
