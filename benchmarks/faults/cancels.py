"""Requests that are given up by their clients, very many of them: whether anything of them stays.

Nine of ten are given up while they wait for the one slot of a model that is taken; the tenth is given up amid its
stream. Half of the connections end in order, half by a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import uvloop

from benchmarks.contenders import executable
from benchmarks.figures import Figure, Goal
from router.telemetry.records import KEPT_PER_MODEL
from scripts.make_demo_models import ModelSpec, write_model
from tests.support.observing import metric
from tests.support.router import RunningRouter, router
from tests.support.size import WATCHED, Size, size_of
from tests.support.waiting import wait_until

_STREAMS = 512
_BATCH = 10
_WORKERS = 32
_QUEUE = 2 * _BATCH * _WORKERS
_WARM_UP = KEPT_PER_MODEL * _BATCH * 5 // 4  # more than the router remembers of a model that gets one of a batch
# Over the second half, in which nothing is filled for the first time any more. Of a million requests that is 8 bytes
# each, so that not even one reference to each could hide.
_MOST_GROWTH_MIB = 4
_PATIENCE_SEC = 60.0
_RESET = struct.pack("ii", 1, 0)
_ADDRESSES = 200  # of clients, since ports of one address run out while they wait for late packets
_WAITED_FOR, _SERVED = "waited-for", "served"


def measure(folder: Path, count: int) -> list[Figure]:
    """Give so many requests up."""
    with _site(folder) as running:
        uvloop.run(_give_up_all(running, _WARM_UP))
        before = _rested(running)
        told = _cancelled(running)
        began = time.monotonic()
        uvloop.run(_give_up_all(running, count // 2))
        halfway = _rested(running).resident
        uvloop.run(_give_up_all(running, count - count // 2))
        rate = count / (time.monotonic() - began)
        after = _rested(running, at_most=before)
        held = running.client.get("/v1/queue/stats").json()["total"]
        given_up = _cancelled(running) - told
    work = f"{count:,} cancelled requests, {rate:,.0f} a second"
    none = Goal("at most", 0)
    whole, second = ((after.resident - size) / 2**20 for size in (before.resident, halfway))
    if given_up < count:
        raise RuntimeError(f"the router has counted {given_up:,.0f} of {count:,} cancelled requests")
    return [
        Figure(work, "slots and tickets leaked", "", held["busy"] + held["depth"], none, ""),
        Figure(work, "sockets leaked", "", max(0, after.files - before.files), none, ""),
        Figure(work, "tasks leaked", "", (after.tasks - before.tasks).total(), none, ""),
        Figure(work, f"RSS growth over the second half (over both {whole:+.1f} MiB)", "", second,
               Goal("at most", _MOST_GROWTH_MIB), " MiB"),
    ]  # fmt: skip


def _site(folder: Path) -> AbstractContextManager[RunningRouter]:
    """A router with a model whose one slot will be taken, and one that streams to everybody."""
    folder.mkdir(parents=True, exist_ok=True)
    file = write_model(folder / "model.gguf", ModelSpec())
    slots = {_WAITED_FOR: 1, _SERVED: _STREAMS}
    models = {name: {"model_path": str(file), "flags": ["-np", str(count)]} for name, count in slots.items()}
    system = {"max_queue_size_per_model": _QUEUE, "request_timeout_sec": 7200.0, "generation_timeout_sec": 7200.0,
              "queue_timeout_sec": 7200.0, "preload_models": ["*"]}  # fmt: skip
    binary = executable(folder / "llama-server", [sys.executable, "-m", "benchmarks.fast_upstream"])
    program = (str(WATCHED), str(folder / "tasks"))
    return router(folder, models, system=system, env={"LLAMA_SERVER_PATH": str(binary)}, program=program)


def _rested(running: RunningRouter, at_most: Size | None = None) -> Size:
    """The router's size once nothing is held any more; at the latest after a minute."""

    def rests() -> bool:
        total = running.client.get("/v1/queue/stats").json()["total"]
        if total["depth"] or total["busy"]:
            return False
        return at_most is None or not size_of(running).more_than(at_most)

    with contextlib.suppress(TimeoutError):  # then the figures tell what is left
        wait_until(rests, _PATIENCE_SEC)
    return size_of(running)


async def _give_up_all(running: RunningRouter, count: int) -> None:
    batches = iter([range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)])
    holder = _Client()
    port = int(running.url.rpartition(":")[2])
    await holder.connect(port, 0, _WAITED_FOR)  # takes the slot, and keeps it
    await holder.answered
    async with asyncio.TaskGroup() as tasks:
        for _ in range(_WORKERS):
            tasks.create_task(_give_up(port, batches))
    holder.leave(reset=False)


async def _give_up(port: int, batches: Iterator[range]) -> None:
    """Ask so many times, the last one of a batch to be answered; what was asked before it has been read by then."""
    for batch in batches:
        clients = [_Client() for _ in batch]
        for number, client in zip(batch, clients, strict=True):
            await client.connect(port, number, _SERVED if number == batch[-1] else _WAITED_FOR)
        await clients[-1].answered
        for number, client in zip(batch, clients, strict=True):
            client.leave(reset=bool(number % 2))


class _Client(asyncio.Protocol):
    """One request. Attributes: answered: done at the first byte of an answer."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    async def connect(self, port: int, number: int, model: str) -> None:
        loop = asyncio.get_running_loop()
        address = f"127.0.0.{2 + number % _ADDRESSES}"
        transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", port, local_addr=(address, 0))
        self._transport = transport
        transport.write(_REQUESTS[model])

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 200") and not self.answered.done():
            self.answered.set_exception(RuntimeError(f"a request was answered {data[:300]!r}"))
        elif not self.answered.done():
            self.answered.set_result(None)

    def leave(self, *, reset: bool) -> None:
        if self._transport is None:
            raise RuntimeError("it has not come yet")
        if reset:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.close()


def _request(model: str) -> bytes:
    asked = {"model": model, "max_tokens": 2, "stream": True, "pause_ms": 3_600_000,
             "messages": [{"role": "user", "content": "Hi"}]}  # fmt: skip
    body = json.dumps(asked).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


_REQUESTS: Mapping[str, bytes] = {model: _request(model) for model in (_WAITED_FOR, _SERVED)}


def _cancelled(running: RunningRouter) -> float:
    return metric(running, "router_requests_total", status="cancelled")
