"""What the kernel says of a process in `/proc/<pid>/stat`: whether it runs, when it began, what it has computed.

One read of a file that never blocks, a few microseconds. Elsewhere than on Linux psutil says the same, more slowly.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

# States in which a process is there and does nothing for anybody (proc(5)). A debugger's `t` is not among them: whoever
# attaches one knows why the process stands still.
_HALTED = {
    "T": "was stopped by a signal (SIGSTOP) and does not run",
    "Z": "has ended, and yet it is not gone (a zombie): some of its threads hang in the kernel",
}
_LETTERS = {psutil.STATUS_STOPPED: "T", psutil.STATUS_ZOMBIE: "Z"}


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One reading.

    Attributes:
        state: the kernel's letter; `R`, `S`, `D`, `T`, `t`, `Z`, and others that nobody needs here.
        cpu_seconds: computed so far by all of its threads.
        started: when it began. Clock ticks since boot on Linux, seconds since 1970 elsewhere.
    """

    state: str
    cpu_seconds: float
    started: str

    @property
    def halted(self) -> str:
        """Why it does not run though it is there, to follow "its process"; empty when it may run."""
        return _HALTED.get(self.state, "")


def process_stat(pid: int) -> ProcessStat | None:
    """The reading of now; None when there is no such process."""
    return _from_proc(pid) if sys.platform == "linux" else _from_psutil(pid)


def _from_proc(pid: int) -> ProcessStat | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field is the name in brackets, which may hold anything.
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ProcessStat(fields[0], ticks / os.sysconf("SC_CLK_TCK"), fields[19])


def _from_psutil(pid: int) -> ProcessStat | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            state = _LETTERS.get(process.status(), "S")
            return ProcessStat(state, times.user + times.system, f"{process.create_time():.2f}")
    except psutil.Error:
        return None
