"""Telling systemd how the router is, as `sd_notify(3)` says: one datagram of `NAME=value` lines to a socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence

_log = logging.getLogger(__name__)

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Does nothing where nobody listens. Never raises and never blocks: a message that cannot be sent is lost.

    Attributes:
        watchdog_sec: systemd ends a router that is silent for so long; None = it does not watch.
    """

    def __init__(self, address: str = "", watchdog_sec: float | None = None) -> None:
        # An `@` stands for the NUL that begins a name outside the file system.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_sec = watchdog_sec

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Takes the variables out of `environ`: they are meant for this process, and not for its children."""
        address, microseconds, pid = (environ.pop(name, "") for name in _VARIABLES)
        is_watched = microseconds.isdecimal() and int(microseconds) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(microseconds) / 1e6 if is_watched else None)

    def ready(self, status: str) -> None:
        """It serves; also at the end of a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={status}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reading the configuration")

    def stopping(self, seconds: float) -> None:
        """It ends within so many seconds, which systemd should wait for."""
        self._tell(
            "STOPPING=1",
            f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}",
            "STATUS=shutting down: open requests may finish",
        )

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.connect(self._address)
                sock.send("\n".join(lines).encode())
        except OSError as error:
            _log.warning("systemd was not told %s: %s", lines[0], error.strerror or error)


async def keep_alive(notifier: Notifier, troubles: Callable[[], Sequence[str]]) -> None:
    """Say twice per watchdog interval that all is well, as long as it is; until cancelled.

    From this task nothing is heard when the event loop stands still, and nothing is said while there are `troubles`.
    """
    if notifier.watchdog_sec is None:
        return
    while True:
        if found := troubles():
            _log.error("systemd is not told that all is well: %s", "; ".join(found))
        else:
            notifier.alive()
        await asyncio.sleep(notifier.watchdog_sec / 2)
