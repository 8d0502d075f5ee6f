"""Where a measurement was taken: the machine, its cores, how busy it is, and which commit was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Cores:
    """Attributes:
    relay: for the one that is measured; None = not pinned.
    load: for the load generator and the upstream.
    """

    relay: int | None
    load: int | None

    def __str__(self) -> str:
        return "not pinned" if self.relay is None else f"relay on core {self.relay}, load on core {self.load}"


def cores() -> Cores:
    """Two different cores of those we may use, if there are two and the system lets us choose."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1]) if len(usable) > 1 else Cores(None, None)


def pin(core: int | None) -> None:
    """Keep this process, and whatever it starts, on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def allow_many_sockets() -> None:
    """Raise the soft limit of open files to the hard one; children inherit it."""
    import resource  # noqa: PLC0415  not there on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def load_average() -> float:
    """Of the last minute, over all cores."""
    return os.getloadavg()[0]


def description() -> str:
    """Processor, cores and versions, in one line."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    """The one that is checked out, marked when the router that is measured differs from it."""
    found = _git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{found} with changes" if _git("status", "--porcelain", "--", "router") else found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
