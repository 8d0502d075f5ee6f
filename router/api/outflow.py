"""A client that takes what is written more slowly than it comes, or not at all."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable

if sys.platform == "linux":
    import fcntl
    import termios

_LOOKS = 4  # within the patience; a client is given up at most this part of it too late


class Outflow:
    """Watches what waits in one transport's buffer.

    Args:
        patience: seconds that a client may take nothing at all of what waits for it.

    Attributes:
        full: more waits than the high-water mark; write no more.
    """

    __slots__ = ("_drained", "_give_up", "_interval", "_looks", "_size", "_timer", "_transport", "full")

    def __init__(self, patience: float) -> None:
        self.full = False
        self._interval = patience / _LOOKS
        self._looks = 0
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self._transport: asyncio.Transport | None = None
        self._give_up: Callable[[], None] | None = None

    def watch(self, transport: asyncio.Transport, give_up: Callable[[], None]) -> None:
        """Call `give_up` unless the buffer goes on shrinking, until `release`."""
        if self._timer is None:
            self._transport, self._give_up = transport, give_up
            self._size, self._looks = _untaken(transport), 0
            self._wait()

    def release(self) -> None:
        """The client has caught up, or is gone."""
        self.full = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._transport = self._give_up = None
        if self._drained is not None:
            self._drained.set()

    async def drained(self) -> None:
        """Wait while it is full."""
        while self.full:
            self._drained = self._drained or asyncio.Event()
            self._drained.clear()
            await self._drained.wait()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def _look(self) -> None:
        transport, give_up = self._transport, self._give_up
        if transport is None or give_up is None:
            return
        size = _untaken(transport)
        self._looks = 0 if size < self._size else self._looks + 1
        self._size = size
        if self._looks == _LOOKS:
            give_up()
        else:
            self._wait()


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that the client has not acknowledged.

    The system's share counts: it takes megabytes at once, and then nothing until much of them is gone.
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None:
        size += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return size
