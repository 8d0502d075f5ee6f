"""A TCP proxy that breaks what it carries: resets it, half-closes it, swallows it, is slow, cuts it into bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

_RESET = struct.pack("ii", 1, 0)
_DEADLINE = 10.0


@dataclass(eq=False)
class _Link:
    """One connection and its continuation.

    Attributes:
        broken: what arrives on either side goes nowhere.
        faulty: something was done to it.
    """

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    broken: bool = False
    faulty: bool = False


class TcpProxy:
    """Listens on a port of loopback, in a thread of its own, and passes everything on to another.

    Attributes:
        drip: what goes back to the one who connects goes byte by byte.
        delay: seconds by which each piece of it is late.
    """

    def __init__(self, port: int, target: int) -> None:
        self.drip = False
        self.delay = 0.0
        self._target = target
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._serving: set[asyncio.Task[Any]] = set()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE)
        self._loop.close()

    def reset(self) -> None:
        """Both ends of every open connection see a reset."""
        self._to_all(_reset)

    def half_close(self) -> None:
        """Whoever has connected sees the end of what the other says, may itself go on, and is heard by nobody."""
        self._to_all(lambda link: link.near.write_eof())

    def swallow(self) -> None:
        """Open connections carry nothing any more, and neither end is told; those to come are whole."""
        self._to_all(lambda link: None)

    def undropped(self) -> int:
        """Connections that something was done to, and that the one who had connected has not closed yet."""
        return sum(link.faulty for link in list(self._links))

    def _to_all(self, deed: Callable[[_Link], object]) -> None:
        async def do() -> None:
            for link in self._links:
                link.broken = link.faulty = True
                deed(link)

        self._call(do())

    def _call(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_DEADLINE)

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        link = _Link(near, far)
        self._links.add(link)
        back = asyncio.create_task(self._bring_back(far_reader, link))
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    if not link.broken:
                        far.write(data)
                        await far.drain()
        finally:
            self._links.discard(link)
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for side in (near, far):
                side.transport.abort()
                with suppress(OSError):
                    await side.wait_closed()

    async def _bring_back(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay)
                for piece in map(bytes, zip(data, strict=True)) if self.drip else (data,):
                    if link.broken:
                        break
                    link.near.write(piece)
                    await link.near.drain()
                    if self.drip:
                        await asyncio.sleep(0)
        if not link.broken:
            link.near.close()

    async def _close(self) -> None:
        self._server.close()
        for link in self._links:
            link.near.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()


def _reset(link: _Link) -> None:
    for side in (link.near, link.far):
        side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        side.transport.abort()
