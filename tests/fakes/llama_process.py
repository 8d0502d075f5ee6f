"""What the fake llama-server knows of its own process. Standard library only."""

from __future__ import annotations

import os
import sys
from typing import Any


def describe_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "argv": sys.argv,
        "env": dict(os.environ),
        "cwd": os.getcwd(),  # noqa: PTH109
        "stdin": os.read(0, 1).decode() or "end of file",
    }


def age() -> float:
    """Seconds since this process was started, the interpreter's start included; 0 where that cannot be told."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat, open("/proc/uptime", encoding="ascii") as uptime:  # noqa: PTH123
            began = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            return float(uptime.read().split()[0]) - began
    except OSError:
        return 0.0
