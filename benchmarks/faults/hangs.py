"""Children that stop, stall, or only seem to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import uvloop

from benchmarks.faults.site import Ending, Site, ask, site
from benchmarks.figures import Figure, Goal

_STALL_BOUND_SEC = 3.0
_PREFILL_SEC = 4 * _STALL_BOUND_SEC
_FOUND_SEC, _STALLED_SEC = 10.0, 15.0
_PATIENCE_SEC = 180.0
_LOOK_SEC = 0.02
_PREFILLS = 4


def measure(folder: Path, *, times: int, prefill_seconds: float) -> list[Figure]:
    """Stop and stall children so many times each; then have long prompts read for so long."""
    flags = ("-np", "4", "--token-delay", "0.01")
    with site(folder / "stop", {"m": flags}, system={"restart_grace_sec": 0.001}) as found:
        stopped = [uvloop.run(_stop(found)) for _ in range(times)]
    system = {"request_timeout_sec": _STALL_BOUND_SEC, "restart_grace_sec": 0.001}
    with site(folder / "stall", {"m": flags}, system=system) as found:
        stalled = [uvloop.run(_stall(found)) for _ in range(times)]
    slow = ("-np", str(_PREFILLS), "--prefill-delay", str(_PREFILL_SEC))
    system |= {"health_interval_sec": 1}
    with site(folder / "prefill", {"m": slow}, system=system) as found:
        answers, killed = uvloop.run(_prefill(found, prefill_seconds))
    bound = f"beyond the bound of {_STALL_BOUND_SEC:g} s"
    prefills = f"{answers} prompts of {_PREFILL_SEC:g} s each, over {prefill_seconds / 60:g} min"
    return [
        Figure(f"{times} children stopped at work", "found, replaced and answering again, slowest", "", max(stopped),
               Goal("at most", _FOUND_SEC), " s"),
        Figure(f"{times} streams stalled", f"their clients told, slowest, {bound}", "",
               max(stalled) - _STALL_BOUND_SEC, Goal("at most", _STALLED_SEC), " s"),
        Figure(prefills, "children or requests ended though they worked", "", killed, Goal("at most", 0), ""),
    ]  # fmt: skip


async def _stop(found: Site) -> float:
    """Seconds from SIGSTOP to the first whole answer of the next child, asked for all the while."""
    async with asyncio.timeout(_PATIENCE_SEC), httpx.AsyncClient(base_url=found.running.url) as client:
        await _until_answered(found)
        pid = int((await _status(client))["pid"])
        company = [asyncio.create_task(ask(found.port, "m", tokens=500, stream=True)) for _ in range(2)]
        while (await _status(client))["busy"] < len(company):  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(_LOOK_SEC)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        await _until_answered(found)
        seconds = time.monotonic() - began
        if (await _status(client))["pid"] == pid:
            raise RuntimeError("the stopped child has answered")
        await asyncio.gather(*company)
    return seconds


async def _until_answered(found: Site) -> None:
    while (await ask(found.port, "m", tokens=2, stream=True))[0] is not Ending.WHOLE:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(_LOOK_SEC)


async def _stall(found: Site) -> float:
    """Seconds from the last token to the end of a stream whose child produces no more."""
    async with asyncio.timeout(_PATIENCE_SEC):
        await _until_answered(found)
        (child,) = found.control.alive
        child.tell(stall_after_tokens=3)
        began = time.monotonic()
        ending, _ = await ask(found.port, "m", tokens=50, stream=True)
        seconds = time.monotonic() - began
        if ending is not Ending.BROKEN:
            raise RuntimeError(f"a stalled stream was {ending.value}")
        child.tell(stall_after_tokens=None)
    return seconds


async def _prefill(found: Site, seconds: float) -> tuple[int, int]:
    """Answers, and how many requests or children were ended."""
    until = time.monotonic() + seconds
    answers = failures = 0

    async def ask_again(*, stream: bool) -> None:
        nonlocal answers, failures
        while time.monotonic() < until:
            ending, _ = await ask(found.port, "m", tokens=3, stream=stream, text="la " * 1000)
            answers += 1
            failures += ending is not Ending.WHOLE

    async with asyncio.TaskGroup() as tasks:
        for number in range(_PREFILLS):
            tasks.create_task(ask_again(stream=bool(number % 2)))
    return answers, failures + len(found.control.children) - 1


async def _status(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/v1/models/m/status")).json()
    return found
