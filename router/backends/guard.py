"""The guard: a tiny process that ends the router's children when the router is gone, however it went.

Run as a script with the standard library only (`python -I -S guard.py MARK`), so that it starts in milliseconds and
needs nothing of ours. Its stdin is a pipe whose only lasting writer is the router. It reads lines, `+PID` for a process
group to look after and `-PID` for one that has ended. At end of file it kills every group that is left, and then what
has left its group and bears the router's mark, and exits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

# In the environment of every child, and so of all that come of it, wherever they go.
MARK = "LLAMA_ROUTER_CHILD"


def kill_marked(mark: str) -> list[int]:
    """Kill whoever bears a mark that is this one or begins with this one and a dot; who that was.

    That is how those are found whose parent has gone and who have a group of their own (`setsid`). Linux only; blocks
    for moments.
    """
    killed: list[int] = []
    wanted = f"\0{MARK}={mark}".encode()
    with contextlib.suppress(OSError):
        for process in Path("/proc").iterdir():
            # Each of them may be gone by now, somebody else's, or us.
            if process.name.isdigit() and int(process.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if _bears(process, wanted):
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(int(process.name))
    return killed


def _bears(process: Path, wanted: bytes) -> bool:
    state = (process / "stat").read_bytes().rpartition(b")")[2].split()[:1]
    if state in ([b"D"], [b"Z"]):  # whoever looks into one that hangs in the kernel may hang too
        return False
    environment = b"\0" + (process / "environ").read_bytes()
    return wanted + b"\0" in environment or wanted + b"." in environment


def main(mark: str) -> None:
    # A Ctrl-C or a `kill` of everything is for the router; the guard has to be the last one standing.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        sign, number = line[:1], line[1:].strip()
        # 0, 1 and our own number would mean us, or everybody.
        if not number.isdigit() or int(number) in {0, 1, os.getpid()}:
            continue
        if sign == b"+":
            groups.add(int(number))
        elif sign == b"-":
            groups.discard(int(number))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    kill_marked(mark)


if __name__ == "__main__":
    main(sys.argv[1])
