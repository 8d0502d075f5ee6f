"""The pipe that a child writes its output to, drained by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable


class OutputPipe(asyncio.Protocol):
    """The read end of a pipe that a child writes its output to; `feed` gets every chunk."""

    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._transport: asyncio.BaseTransport | None = None
        self._ended = asyncio.Event()

    @classmethod
    async def open(cls, feed: Callable[[bytes], None]) -> tuple[OutputPipe, int]:
        """The pipe and its write end, which the caller closes once the child has it."""
        read_end, write_end = os.pipe()
        loop = asyncio.get_running_loop()
        if sys.platform == "win32":
            # Its event loop reads no anonymous pipes.
            pipe = cls(feed)
            threading.Thread(target=pipe.read_in_thread, args=(read_end, loop), daemon=True).start()
            return pipe, write_end
        source = os.fdopen(read_end, "rb", buffering=0)  # closed by the transport
        connecting = asyncio.ensure_future(loop.connect_read_pipe(lambda: cls(feed), source))
        try:
            _, pipe = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            os.close(write_end)
            (await connecting)[1].close()
            raise
        return pipe, write_end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._ended.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def drain(self, *, timeout: float) -> None:
        """Wait for the end of the output, or close it at the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        self.close()

    def read_in_thread(self, read_end: int, loop: asyncio.AbstractEventLoop) -> None:
        """Read a blocking pipe to its end on behalf of the loop."""
        with os.fdopen(read_end, "rb", buffering=0) as source, contextlib.suppress(RuntimeError):  # the loop is closed
            while data := source.read(65536):
                loop.call_soon_threadsafe(self._feed, data)
            loop.call_soon_threadsafe(self._ended.set)
