"""The router in namespaces of its own, as in a container: `python tests/fakes/contained_router.py WHAT …` runs `serve`.

`disk FOLDER MIB`   FOLDER is a tmpfs of so many MiB, with `router.log` in it, which takes what the router says. From
                    outside it is to be seen below `/proc/PID/root` only, and it is gone with the process.
`first`             It is process 1, to which every orphan falls. The process that was started waits for it.

With `--try` at the end it only tries that: where it is not allowed, it says so and ends with code 3.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_MOUNTS, _USERS, _PROCESSES = 0x20000, 0x10000000, 0x20000000
_PRIVATE_AND_BELOW = 0x40000 | 0x4000
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(what: str, *more: str) -> int:
    trying = more[-1:] == ("--try",)
    try:
        if what == "disk":
            use_disk(Path(more[0]), int(more[1]))
        elif (started := become_first()) is not None:
            return started
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    if trying:
        return 0
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from router.cli import main as run_router  # noqa: PLC0415

    return run_router([])


def use_disk(folder: Path, mebibytes: int) -> None:
    leave(_MOUNTS)
    mount("tmpfs", str(folder), "tmpfs", 0, f"size={mebibytes}m,mode=700")
    log = os.open(folder / "router.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def become_first() -> int | None:
    """Return None in the first process of a namespace, and its exit code in the one that has started it."""
    leave(_MOUNTS | _PROCESSES)
    first = os.fork()
    if first:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: os.kill(first, number))
        return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    mount("proc", "/proc", "proc", 0, None)
    return None


def leave(namespaces: int) -> None:
    """As root at once, else as the root of a user namespace of our own."""
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(namespaces if user == 0 else namespaces | _USERS):
        raise OSError(ctypes.get_errno(), "no namespaces may be made here")
    if user:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    mount(None, "/", None, _PRIVATE_AND_BELOW, None)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, options)]
    if _LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        raise OSError(ctypes.get_errno(), f"nothing may be mounted on {target} here")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
