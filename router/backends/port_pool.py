"""Loopback ports for children."""

from __future__ import annotations

import errno
import socket
import sys

from router.engine.ports import LaunchError

LOOPBACK = "127.0.0.1"
_LAST_PORT = 65535


class PortPool:
    """Hands out ports from `base` upward that nobody listens on and that no child of ours has.

    Somebody else may still take a port before the child binds it; the child then ends and gets another.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self._taken: set[int] = set()

    def take(self) -> int:
        """The lowest free port; raises LaunchError when there is none."""
        for port in range(self._base, _LAST_PORT + 1):
            if port not in self._taken and _free(port):
                self._taken.add(port)
                return port
        raise LaunchError(f"no free port from {self._base} (system.base_port) to {_LAST_PORT}")

    def give_back(self, port: int) -> None:
        self._taken.discard(port)


def out_of_descriptors() -> bool:
    """Whether this process can open no socket now: then a call that failed says nothing about whom it was for."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError as error:
        return is_shortage(error)
    return False


def is_shortage(error: OSError) -> bool:
    """Whether it was this process or the machine that had too little of something for a moment."""
    return error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As a server would: a connection in TIME_WAIT does not make a port busy. (On Windows it means another thing.)
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise LaunchError(f"cannot open a socket on {LOOPBACK}:{port}: {error.strerror}") from error
        return True
