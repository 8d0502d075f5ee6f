"""The load generator: connections in closed loops, each asking again as soon as it has its answer.

It understands as much of HTTP as it takes to know that an answer is whole and right, and raises when one is not.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.script import PATH, Plan, document, events, request_body

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SEC = 30.0
_CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"connection: *close", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class BadAnswer(Exception):
    """What came was not the answer that the upstream gave."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask.

    Attributes:
        key: the API key it wants; empty = none.
        closes: it ends the connection after a stream though it does not say so.
    """

    port: int
    key: str = ""
    closes: bool = False

    def request(self, body: bytes, path: str = PATH) -> bytes:
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nuser-agent: benchmark\r\naccept: */*\r\n"
            f"content-type: application/json\r\n{key}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Tally:
    """What a load came to.

    Attributes:
        seconds: from the first request to the end of the last answer.
        answers: whole ones.
        waits: seconds from each request to its first byte of content; for a document, to its end.
    """

    seconds: float = 0.0
    answers: int = 0
    waits: list[float] = field(default_factory=list)


async def run(target: Target, plan: Plan, *, connections: int, seconds: float = 0.0, answers: int = 0) -> Tally:
    """Load a target until the time is over or so many answers were asked for, and every answer has come.

    Raises BadAnswer, TimeoutError.
    """
    tally = Tally()
    began = time.perf_counter()
    until = began + seconds if seconds else float("inf")
    left = iter(range(answers)) if answers else None

    def more() -> bool:
        return time.perf_counter() < until and (left is None or next(left, None) is not None)

    loops = [_ClosedLoop(target, plan, tally, more) for _ in range(connections)]
    async with asyncio.timeout((seconds or answers) + _PATIENCE_SEC):
        for loop in loops:
            await loop.start()
        await asyncio.gather(*(loop.done for loop in loops))
    tally.seconds = time.perf_counter() - began
    return tally


class _ClosedLoop(asyncio.Protocol):
    """One client."""

    def __init__(self, target: Target, plan: Plan, tally: Tally, more: Callable[[], bool]) -> None:
        self._target = target
        self._plan = plan
        self._tally = tally
        self._more = more
        self._request = target.request(request_body(plan))
        self._least = len(b"".join(events(plan.chunks)) if plan.stream else document())
        self._buffer = b""
        self._seen = 0
        self._asking = False
        self._take = self._take_stream if plan.stream else self._take_document
        self._reconnecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._target.port)
        self._ask()

    def _ask(self) -> None:
        if not self._more():
            if self._transport is not None:
                self._transport.close()
            self.done.set_result(None)
            return
        assert self._transport is not None  # noqa: S101
        self._buffer, self._seen, self._asking = b"", 0, True
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._asking and not self.done.done():
            self.done.set_exception(BadAnswer(f"the connection ended within an answer: {error or 'closed'}"))

    def _take_document(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        end = data.find(_END_OF_HEAD)
        if end < 0:
            self._buffer = data
            return
        found = _CONTENT_LENGTH.search(data, 0, end)
        if not data.startswith(b"HTTP/1.1 200") or found is None:
            self._fail(data)
        elif len(data) < end + 4 + int(found[1]):
            self._buffer = data
        elif int(found[1]) != self._least:
            self._fail(data)
        else:
            self._tally.waits.append(time.perf_counter() - self._asked)
            self._finish(reusable=True)

    def _take_stream(self, data: bytes) -> None:
        if not self._seen:
            data = self._buffer + data
            if b"\ndata: " not in data:
                self._buffer = data
                return
            self._tally.waits.append(time.perf_counter() - self._asked)
            head = data[: data.find(_END_OF_HEAD)]
            if not head.startswith(b"HTTP/1.1 200"):
                self._fail(data)
                return
            self._reusable = not self._target.closes and _CLOSES.search(head) is None
        self._seen += len(data)
        self._buffer = data if len(data) > len(_LAST_CHUNK) else (self._buffer + data)[-64:]
        if self._buffer.endswith(_LAST_CHUNK):
            if self._seen < self._least:
                self._fail(data)
            else:
                self._finish(reusable=self._reusable)

    def _finish(self, *, reusable: bool) -> None:
        self._tally.answers += 1
        self._asking = False
        if reusable:
            self._ask()
        else:
            if self._transport is not None:
                self._transport.close()
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        try:
            await self.start()
        except OSError as error:
            self.done.set_exception(error)

    def _fail(self, data: bytes) -> None:
        self._asking = False
        if not self.done.done():
            self.done.set_exception(BadAnswer(f"port {self._target.port} answered {data[:600]!r}"))
        if self._transport is not None:
            self._transport.abort()
