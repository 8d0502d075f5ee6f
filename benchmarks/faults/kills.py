"""Children that are killed at work: what becomes of those they served, and of those who waited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvloop

from benchmarks.faults.site import Ending, Site, ask, site, statuses
from benchmarks.figures import Figure, Goal

_MODELS, _SLOTS, _CLIENTS = 4, 4, 12
_TOKENS = 12
_TOKEN_SEC = 0.004
_LOOK_SEC = 0.02
_LIFE_SEC = (0.1, 0.6)  # of a child at work, before it is killed
_PATIENCE_SEC = 1800.0
# What a request is told whose third child has died of something; by then it had been at work.
_AT_WORK = {"upstream_failed"}


@dataclass(slots=True)
class _Tally:
    """Attributes:
    kills: of children that were ready.
    endings: by what clients saw.
    codes: of refusals.
    """

    wanted: int
    kills: int = 0
    endings: Counter[Ending] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> bool:
        return self.kills >= self.wanted


def measure(folder: Path, count: int) -> list[Figure]:
    """Kill so many children of several models while all of them are asked for more than they have slots."""
    flags = ("-np", str(_SLOTS), "--token-delay", str(_TOKEN_SEC))
    models = {f"m{number}": flags for number in range(_MODELS)}
    with site(folder, models, system={"restart_grace_sec": 0.001, "preload_models": ["*"]}) as found:
        tally = uvloop.run(_all(found, tuple(models), count))
    work = f"{tally.kills:,} SIGKILLs of READY children of {_MODELS} models, {sum(tally.endings.values()):,} requests"
    at_work = sum(tally.codes[code] for code in _AT_WORK)
    lost = {
        "queued requests lost": tally.codes.total() - at_work,
        "lost before their first byte": at_work + tally.endings[Ending.UNANSWERED],
        "truncations passed off as complete": tally.endings[Ending.TRUNCATED],
    }
    told = f"{tally.endings[Ending.BROKEN]:,} streams broke amid their content and said so"
    return [Figure(work, f"{what} ({told})", "", count, Goal("at most", 0), "") for what, count in lost.items()]


async def _all(found: Site, models: tuple[str, ...], count: int) -> _Tally:
    tally = _Tally(count)
    async with (
        asyncio.timeout(_PATIENCE_SEC),
        httpx.AsyncClient(base_url=found.running.url, timeout=30) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for model in models:
            tasks.create_task(_kill_again(client, model, tally))
            for number in range(_CLIENTS):
                tasks.create_task(_ask_again(found.port, model, tally, stream=bool(number % 2)))
    return tally


async def _ask_again(port: int, model: str, tally: _Tally, *, stream: bool) -> None:
    while not tally.done:
        ending, code = await ask(port, model, tokens=_TOKENS, stream=stream)
        tally.endings[ending] += 1
        if ending is Ending.REFUSED:
            tally.codes[code] += 1


async def _kill_again(client: httpx.AsyncClient, model: str, tally: _Tally) -> None:
    killed = 0
    while not tally.done:
        pid = await _at_work(client, model)
        if pid in (None, killed):
            await asyncio.sleep(_LOOK_SEC)
            continue
        await asyncio.sleep(random.uniform(*_LIFE_SEC))
        if await _at_work(client, model) == pid:
            killed = pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                tally.kills += 1


async def _at_work(client: httpx.AsyncClient, model: str) -> int | None:
    """The process of a model that is ready and has work."""
    status = (await statuses(client))[model]
    return int(status["pid"]) if status["status"] == "ready" and status["busy"] else None
