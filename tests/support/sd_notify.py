"""systemd's end of `sd_notify`: a real datagram socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self


class Manager:
    """Listens at once.

    Args:
        address: of the socket; an `@` at its head stands for a name outside the file system.
    """

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def hear(self) -> list[str]:
        """The lines of the next message. Raises TimeoutError, BlockingIOError once all is to be forgotten."""
        return self.socket.recv(4096).decode().split("\n")

    async def hear_soon(self) -> list[str]:
        return await asyncio.to_thread(self.hear)

    def forget(self) -> None:
        """Take what has been said so far; from now on nobody waits for more."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.hear()
