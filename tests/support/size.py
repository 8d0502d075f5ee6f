"""How much of everything a router takes, so that what is left behind can be seen."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass

import psutil

from tests.support.router import ROOT, RunningRouter
from tests.support.waiting import wait_until

# The program to start a router by, so that `size_of` it can be told; its argument is the file `tasks` in its folder.
WATCHED = ROOT / "tests" / "fakes" / "watched_router.py"
_POOL = (os.cpu_count() or 1) + 4  # threads that asyncio keeps once it has needed them
_MOST_GROWTH = 16 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """What a router takes while it has nothing to do."""

    files: int
    threads: int
    tasks: Counter[str]
    resident: int

    def more_than(self, before: Size) -> str:
        """What there is more of than can be told from memory that a process keeps for later; empty if nothing."""
        grown = self.resident - before.resident
        fine = (
            self.files <= before.files
            and self.threads <= before.threads + _POOL
            and not self.tasks - before.tasks
            and grown <= _MOST_GROWTH
        )
        return "" if fine else f"{self} was {before}, {grown >> 20} MiB less"


def size_of(running: RunningRouter) -> Size:
    """What the router takes now."""
    process = psutil.Process(running.process.pid)
    out = running.folder / "tasks"
    out.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR2)
    wait_until(out.exists, what="the list of tasks")
    tasks = Counter(name.rstrip("0123456789") for name in out.read_text(encoding="utf-8").splitlines())
    return Size(process.num_fds(), process.num_threads(), tasks, process.memory_info().rss)
