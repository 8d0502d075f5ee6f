"""The pipe that a child writes its output to, drained by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable

_PIECE = 64 * 1024


class OutputPipe:
    """The read end of a pipe that a child writes its output to; `feed` gets every chunk.

    The descriptor is read and closed here. A pipe that is handed to uvloop (`connect_read_pipe`) is closed twice, by
    libuv and by its file object, and in between its number may have become that of something a thread has opened, or of
    a client's connection: answers got lost, or went to others, and libuv aborted the process.
    """

    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._descriptor: int | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    @classmethod
    def open(cls, feed: Callable[[bytes], None]) -> tuple[OutputPipe, int]:
        """The pipe and its write end, which the caller closes once the child has it. Raises OSError."""
        pipe = cls(feed)
        read_end, write_end = os.pipe()
        if sys.platform == "win32":  # its event loop reads no anonymous pipes
            threading.Thread(target=pipe.read_in_thread, args=(read_end,), daemon=True).start()
        else:
            pipe.read_in_loop(read_end)
        return pipe, write_end

    def close(self) -> None:
        """Read no more. Nothing happens when that has been done."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            self._ended.set()

    async def drain(self, *, timeout: float) -> None:
        """Wait for the end of the output, or close it at the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        self.close()

    def read_in_loop(self, read_end: int) -> None:
        """Read to the end as the loop finds something there."""
        os.set_blocking(read_end, False)
        self._descriptor = read_end
        self._loop.add_reader(read_end, self._take)

    def _take(self) -> None:
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, _PIECE)
        except BlockingIOError:
            return
        if data:
            self._feed(data)
        else:
            self.close()

    def read_in_thread(self, read_end: int) -> None:
        """Read a blocking pipe to its end on behalf of the loop."""
        with os.fdopen(read_end, "rb", buffering=0) as source, contextlib.suppress(RuntimeError):  # the loop is closed
            while data := source.read(_PIECE):
                self._loop.call_soon_threadsafe(self._feed, data)
            self._loop.call_soon_threadsafe(self._ended.set)
