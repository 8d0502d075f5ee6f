"""Many streams at the pace of a real model: what the relay adds to each chunk's way, and what a stream costs in memory.

Each chunk carries the time at which the upstream wrote it. The streams begin one after the other, so that their chunks
are spread over time as those of many replicas are.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import cast

import uvloop

from benchmarks.contenders import Contender
from benchmarks.load import BadAnswer, Target
from benchmarks.script import Plan, request_body

_PAUSE_SEC = 0.05
_BETWEEN_STARTS_SEC = 0.002
_PATIENCE_SEC = 60.0
_STAMP = re.compile(rb"@(\d{19})@")
_STAMP_SIZE = 21


@dataclass(slots=True)
class Watch:
    """What the clients of one run have seen.

    Attributes:
        delays: seconds from the upstream's write to the client's read, once every stream was open.
        memory: resident bytes of the relay while all were open.
    """

    open: bool = False
    delays: list[float] = field(default_factory=list)
    memory: int = 0


@dataclass(frozen=True, slots=True)
class SlowStreams:
    """Attributes:
    added: seconds that the relay adds to the 99th percentile of a chunk's delay.
    per_stream: bytes.
    """

    direct: float
    relayed: float
    per_stream: float

    @property
    def added(self) -> float:
        return self.relayed - self.direct


def slow_streams(direct: Contender, relay: Contender, *, streams: int, rounds: int, seconds: float) -> SlowStreams:
    """The median over interleaved rounds; memory is that of the first, on a relay that has seen less work before."""
    at_rest = relay.memory()
    alone, relayed = [], []
    for _ in range(rounds):
        alone.append(_observe(direct, streams, seconds))
        relayed.append(_observe(relay, streams, seconds))
    return SlowStreams(
        direct=median(_p99(watch) for watch in alone),
        relayed=median(_p99(watch) for watch in relayed),
        per_stream=(relayed[0].memory - at_rest) / streams,
    )


def _observe(contender: Contender, streams: int, seconds: float) -> Watch:
    return uvloop.run(_watched(contender.streams, streams, seconds, contender.memory))


async def _watched(target: Target, streams: int, seconds: float, memory: Callable[[], int]) -> Watch:
    loop = asyncio.get_running_loop()
    opening = streams * _BETWEEN_STARTS_SEC
    chunks = round((opening * 1.5 + seconds + 1) / _PAUSE_SEC)
    request = target.request(request_body(Plan(stream=True, chunks=chunks, pause=_PAUSE_SEC)))
    watch = Watch()
    clients = [_Client(request, watch) for _ in range(streams)]
    async with asyncio.timeout(opening + seconds + _PATIENCE_SEC):
        for client in clients:
            await loop.create_connection(client.itself, "127.0.0.1", target.port)
            await asyncio.sleep(_BETWEEN_STARTS_SEC)
        await asyncio.gather(*(client.begun for client in clients))
        watch.open = True
        await asyncio.sleep(seconds)
        watch.open = False
        watch.memory = memory()
        await asyncio.gather(*(client.done for client in clients))
    return watch


def _p99(watch: Watch) -> float:
    return quantiles(watch.delays, n=100)[98]


class _Client(asyncio.Protocol):
    """Reads one stream to its end."""

    def __init__(self, request: bytes, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._watch = watch
        self._rest = b""
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def itself(self) -> _Client:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + data
        end = 0
        for stamp in _STAMP.finditer(data):
            end = stamp.end()
            if self._watch.open:
                self._watch.delays.append((now - int(stamp[1])) / 1e9)
        if end and not self.begun.done():
            self.begun.set_result(None)
        if b"[DONE]" in data and not self.done.done():
            self.done.set_result(None)
            self._transport.close()
        self._rest = data[end:][-_STAMP_SIZE:]

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.begun, self.done):
            if not future.done():
                future.set_exception(BadAnswer(f"a slow stream ended early: {error or self._rest!r}"))
