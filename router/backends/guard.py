"""The guard: a tiny process that ends the router's children when the router is gone, however it went.

Run as a script with the standard library only (`python -I -S guard.py`), so that it starts in milliseconds and needs
nothing of ours. Its stdin is a pipe whose only lasting writer is the router. It reads lines, `+PID` for a process group
to look after and `-PID` for one that has ended. At end of file it kills every group that is left and exits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
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


if __name__ == "__main__":
    main()
