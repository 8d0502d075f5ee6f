"""One router per state directory: two would rotate each other's logs and delete each other's kept conversations."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from router.errors import ConfigError, Problem

_log = logging.getLogger(__name__)

FILE = "router.lock"


@contextmanager
def state_lock(folder: Path, source: str) -> Iterator[None]:
    """Hold the directory for this process. The kernel lets go of it with the process, however that ends.

    On Windows, and where the file system knows no locks, nothing is held.

    Args:
        folder: the state directory; it exists.
        source: what is to blame in an error: the configuration file.

    Raises ConfigError when another router holds it, or its file is out of reach.
    """
    if sys.platform == "win32":
        yield
        return
    handle = _open(folder / FILE, source)
    try:
        _take(handle, folder, source)
        yield
    finally:
        os.close(handle)


def _open(file: Path, source: str) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:  # as when a router of another user has left it behind
        problem = Problem("system.state_dir", f"cannot be locked: {file}: {error.strerror}", "move the file away")
        raise ConfigError(source, [problem]) from None


def _take(handle: int, folder: Path, source: str) -> None:
    import fcntl  # noqa: PLC0415  not there on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
        message = f"another llama-router (process {holder}) uses this directory: {folder}"
        hint = "stop it first, or give each router a state_dir of its own"
        raise ConfigError(source, [Problem("system.state_dir", message, hint)]) from None
    except OSError as error:
        _log.warning(
            "%s cannot be locked (%s): see to it that no other router uses it", folder, error.strerror or error
        )
        return
    with contextlib.suppress(OSError):  # a full disk: the lock stands, only its holder has no name
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
