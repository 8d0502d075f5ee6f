"""A model that dies at every load: how often it is tried, and what its neighbours notice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import uvloop

from benchmarks.faults.site import Ending, Site, ask, site
from benchmarks.figures import Figure, Goal

_CLIENTS = 4
_THINK_SEC = 0.02
_ASK_SEC = 0.2
_NOISE = 1.25
_MOST_SPAWNS = 6
_SLICE_SEC = 5.0


def measure(folder: Path, seconds: float) -> list[Figure]:
    """Ask for a model that cannot be loaded, with pauses, and for a good one all the while."""
    models = {"good": ("-np", str(_CLIENTS)), "bad": ("--exit-code", "1")}
    with site(folder, models) as found:
        slices = uvloop.run(_all(found, seconds))
        spawns = sum(child.model == "bad" for child in found.control.children)
    loud, quiet = _p99(slices[::2]), _p99(slices[1::2])
    noise = _p99(slices[1::4]) / _p99(slices[3::4])
    work = f"a model that dies at each load, asked for every {_ASK_SEC:g} s"
    values = f"{loud * 1000:.1f} ms, in pauses {quiet * 1000:.1f} ms (noise {max(noise, 1 / noise):.2f}x)"
    return [
        Figure(work, f"spawns in {seconds / 60:g} min of real time", "", spawns, Goal("at most", _MOST_SPAWNS), ""),
        Figure(work, f"p99 of another model: {values}", "itself", loud / quiet, Goal("at most", _NOISE)),
    ]


async def _all(found: Site, seconds: float) -> list[list[float]]:
    """Waits of the good model's clients, by slices of time; the bad one is asked for in the first, the third, …"""
    if (await ask(found.port, "good", tokens=1, stream=False))[0] is not Ending.WHOLE:
        raise RuntimeError("the good model does not answer")
    slices = []
    for number in range(round(seconds / _SLICE_SEC)):
        asking = [] if number % 2 else [_ask_for_the_bad(found.port)]
        slices.append((await asyncio.gather(_waits(found.port, _SLICE_SEC), *asking))[0])
    return slices


async def _ask_for_the_bad(port: int) -> list[float]:
    until = time.monotonic() + _SLICE_SEC - _ASK_SEC
    while time.monotonic() < until:
        ending, _ = await ask(port, "bad", tokens=1, stream=True)
        if ending is not Ending.REFUSED:
            raise RuntimeError(f"a model that cannot be loaded was {ending.value}")
        await asyncio.sleep(_ASK_SEC)
    return []


async def _waits(port: int, seconds: float) -> list[float]:
    """How long each of some paced clients has waited for its answers, in the order in which they came."""
    waits: list[float] = []
    until = time.monotonic() + seconds
    body = json.dumps({"model": "good", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def ask_again() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            began = time.perf_counter()
            writer.write(head + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            waits.append(time.perf_counter() - began)
            if b" 200 " not in lines[0]:
                raise RuntimeError(f"the good model answered {lines[0]!r}")
            await asyncio.sleep(_THINK_SEC)
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CLIENTS):
            tasks.create_task(ask_again())
    return waits


def _p99(slices: Sequence[Sequence[float]]) -> float:
    return quantiles([wait for waits in slices for wait in waits], n=100)[98]
