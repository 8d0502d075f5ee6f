"""Whether the kernel's out-of-memory killer ended a child, and how sure that is.

A SIGKILL has no sender's name on it. What tells are the kernel's own counts and its log:

* the log names the process (`/dev/kmsg`, where it may be read);
* `oom_kill` of the child's memory cgroup (v2 `memory.events`, v1 `memory.oom_control`) has risen;
* `oom_kill` of the machine (`/proc/vmstat`) has risen: one of all processes. It counts the kills in cgroups too, so one
  that has not risen says that it was somebody else: an operator, or a program like earlyoom.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import monotonic

_RECORD_BYTES = 8192
_MOST_RECORDS = 100_000
# The log's clock and ours may differ by what the machine has slept; so much is no other process with the same number.
_CLOCK_SLACK_SEC = 5.0


class OomEvidence(Enum):
    """What is known, from certain to certainly not; the words follow "was killed by SIGKILL"."""

    LOGGED = ": out of memory, as the kernel's log says"
    COUNTED_IN_CGROUP = ": out of memory, by its cgroup's count of OOM kills"
    COUNTED = ": probably out of memory, by the kernel's count of OOM kills"
    UNKNOWN = " (out of memory?)"
    NOT = " (not for lack of memory: the kernel has counted no OOM kill)"


@dataclass(frozen=True, slots=True)
class _Counts:
    cgroup: int | None
    machine: int | None


class OomWitness:
    """Notes the kernel's counts when a child is started, and compares at its end.

    Args:
        proc, cgroup, log: where the kernel tells.
    """

    def __init__(
        self,
        pid: int,
        *,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
        log: Path = Path("/dev/kmsg"),
    ) -> None:
        self._pid = pid
        self._since = monotonic()
        self._machine = proc / "vmstat"
        self._cgroup = _counter_file(proc / str(pid) / "cgroup", cgroup)
        self._log = log
        self._before = self._counts()

    def testify(self) -> OomEvidence:
        """To be called after the child was killed, in a thread: the log may be long."""
        before, now = self._before, self._counts()
        if now.machine is not None and now.machine == before.machine:
            return OomEvidence.NOT
        if _logged(self._log, self._pid, self._since):
            return OomEvidence.LOGGED
        if before.cgroup is not None and now.cgroup is not None and now.cgroup > before.cgroup:
            return OomEvidence.COUNTED_IN_CGROUP
        return OomEvidence.UNKNOWN if now.machine is None or before.machine is None else OomEvidence.COUNTED

    def _counts(self) -> _Counts:
        return _Counts(None if self._cgroup is None else _count(self._cgroup), _count(self._machine))


def _counter_file(listing: Path, root: Path) -> Path | None:
    """The file with the count of the cgroup that a process is in; None where there is none to be seen."""
    try:
        lines = [line.split(":", 2) for line in listing.read_text(encoding="ascii", errors="replace").splitlines()]
    except OSError:
        return None
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if "memory" in controllers.split(","):
            base, name = root / "memory", "memory.oom_control"
        elif not controllers:
            base, name = root, "memory.events"
        else:
            continue
        # Inside a container the mount's root is the container's own cgroup, whatever the path says.
        for folder in (base / path.lstrip("/"), base):
            if _count(folder / name) is not None:
                return folder / name
    return None


def _count(path: Path) -> int | None:
    """The figure after `oom_kill` in a file of `name value` lines."""
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _logged(log: Path, pid: int, since: float) -> bool:
    """Whether the kernel's log tells of the killing of this process: `… Killed process 123 (llama-server) …`.

    A record is `priority,number,microseconds,flags;text`. One read gives one of them, from the oldest on.
    """
    if sys.platform != "linux":
        return False
    try:
        source = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    words = re.compile(rb"^\d+,\d+,(\d+),.*[Kk]illed process %d \(" % pid)
    try:
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(source, _RECORD_BYTES)
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten meanwhile; the next read goes on
                    continue
                return False  # EAGAIN: that was the last
            found = words.match(record)
            if found and int(found[1]) / 1e6 >= since - _CLOCK_SLACK_SEC:
                return True
            if not record:
                return False
        return False
    finally:
        os.close(source)
