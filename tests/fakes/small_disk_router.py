"""The router on a disk of its own: `python tests/fakes/small_disk_router.py FOLDER MIB` runs `serve`.

FOLDER becomes a tmpfs of so many MiB, in a mount namespace that nobody else is in: from outside it is to be seen
below `/proc/PID/root` only, and it is gone with the process. What the router says goes to `router.log` in there. Where
that is not allowed it ends with code 3. MIB=0 only tries that.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_NEW_MOUNTS, _NEW_USERS = 0x20000, 0x10000000
_PRIVATE_AND_BELOW = 0x40000 | 0x4000
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(folder: Path, mebibytes: int) -> int:
    try:
        leave_the_common_mounts()
        mount(None, "/", None, _PRIVATE_AND_BELOW, None)
        mount("tmpfs", str(folder), "tmpfs", 0, f"size={max(mebibytes, 1)}m,mode=700")
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    if not mebibytes:
        return 0
    log = os.open(folder / "router.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from router.cli import main as run_router  # noqa: PLC0415

    return run_router([])


def leave_the_common_mounts() -> None:
    """As root at once, else as the root of a user namespace of our own."""
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(_NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USERS):
        raise OSError(ctypes.get_errno(), "no mount namespace may be made here")
    if user:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, options)]
    if _LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        raise OSError(ctypes.get_errno(), f"nothing may be mounted on {target} here")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
