"""A llama-server in the shape of a raw socket: it says exactly the bytes a test wants, and remembers what it got."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from router.engine.ports import Upstream
from router.wire.pool import Pool


@dataclass
class Heard:
    """One request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Wire:
    """The fake's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int = 0

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = ""
    ) -> None:
        """A whole answer with its length."""
        head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        await self.say(head.encode() + body)

    async def begin_stream(self, more: str = "") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
        await self.say(head.encode())

    async def chunk(self, data: bytes) -> None:
        await self.say(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.say(b"0\r\n\r\n")

    async def peer_gone(self) -> None:
        """Wait until the router closes this connection."""
        while await self.reader.read(65536):
            pass

    def cut(self) -> None:
        """Break the connection as a killed process does."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """Break it so that the other side sees a reset, and not an end."""
        found = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Heard, Wire], Awaitable[None]]


async def _ok(heard: Heard, wire: Wire) -> None:
    await wire.answer(b'{"ok":true}')


@dataclass
class FakeUpstream:
    """Attributes:
    script: what it does with a request; a connection stays open after it unless the script cut it.
    reads_bodies: of requests; otherwise the script may.
    """

    script: Script = _ok
    reads_bodies: bool = True
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Upstream]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pool = Pool("127.0.0.1", port)
        try:
            yield Upstream(f"http://127.0.0.1:{port}", pool, "Bearer child-key")
        finally:
            pool.close()
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        wire = Wire(reader, writer, self.connections)
        try:
            while (heard := await _read(reader, wire.number, bodies=self.reads_bodies)) is not None:
                self.heard.append(heard)
                await self.script(heard, wire)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader, connection: int, *, bodies: bool) -> Heard | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0"))) if bodies else b""
    return Heard(method, target, headers, body, connection)
