"""A running router with controllable children behind it, on which traces are played for real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.contenders import free_port, started, wait_for_port, wait_until
from benchmarks.machine import ROOT
from benchmarks.pinned import environment
from benchmarks.script import PATH
from benchmarks.traces import LOAD_SEC, PREFILL_SEC, SECONDS, TOKEN_SEC, Ask, Loop, Outcome, Trace, Wait
from scripts.make_demo_models import ModelSpec, write_model

_CHILD = ROOT / "tests" / "fakes" / "fake_llama_server.py"
_PATIENCE_SEC = 300.0
_EVICTIONS = re.compile(r"^router_evictions_total\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stage:
    """Attributes:
    port, key: of the router.
    process: the router's own.
    """

    port: int
    key: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def play(self, trace: Trace) -> Outcome:
        return asyncio.run(self._play(trace))

    async def _play(self, trace: Trace) -> Outcome:
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=_PATIENCE_SEC, limits=limits
        ) as client:
            before = await _evictions(client)
            audience = _Audience(client)
            await audience.watch(trace)
            return Outcome(audience.outcome(), await _evictions(client) - before)


@dataclass(slots=True)
class _Audience:
    """The clients of a trace, and how long each of their requests has waited."""

    client: httpx.AsyncClient
    waits: list[Wait] = field(default_factory=list)
    waiting: dict[int, tuple[Ask, float]] = field(default_factory=dict)
    ended: float = 0.0
    asked: int = 0

    async def watch(self, trace: Trace) -> None:
        began = time.monotonic()
        tasks = [asyncio.create_task(self._follow(loop)) for loop in trace.loops]
        tasks += [asyncio.create_task(self._arrive(began + at, ask)) for at, ask in trace.arrivals]
        try:
            done, _ = await asyncio.wait(tasks, timeout=None if trace.to_the_end else SECONDS)
            for task in done:
                task.result()
        finally:
            self.ended = time.monotonic()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def outcome(self) -> tuple[Wait, ...]:
        cut = [Wait(ask.label, self.ended - since, answered=False) for ask, since in self.waiting.values()]
        return (*self.waits, *cut)

    async def _follow(self, loop: Loop) -> None:
        while True:
            for ask in loop.asks:
                await self._ask(ask)
                await asyncio.sleep(loop.think)

    async def _arrive(self, at: float, ask: Ask) -> None:
        await asyncio.sleep(at - time.monotonic())
        await self._ask(ask)

    async def _ask(self, ask: Ask) -> None:
        self.asked += 1
        number, since = self.asked, time.monotonic()
        self.waiting[number] = (ask, since)
        response = await self.client.post(
            PATH, json=_body(ask), headers={"x-request-priority": ask.priority.name.lower()}
        )
        if response.status_code != 200:
            raise RuntimeError(f"{ask.model} was answered {response.status_code}: {response.text[:500]}")
        del self.waiting[number]
        self.waits.append(Wait(ask.label, time.monotonic() - since, answered=True))


@contextlib.contextmanager
def stage(folder: Path, models: Sequence[str]) -> Iterator[Stage]:
    """A router with room for one of these models at a time.

    A child is ready LOAD_SEC after its start and has one slot, which gives the first token after PREFILL_SEC and then
    one each TOKEN_SEC.
    """
    flags = ["--ready-after", str(LOAD_SEC), "--token-delay", str(TOKEN_SEC), "--prefill-delay", str(PREFILL_SEC)]
    with staged(folder, models, ["-np", "1", *flags], max_concurrent_models=1) as found:
        yield found


@contextlib.contextmanager
def staged(folder: Path, models: Sequence[str], flags: Sequence[str], **system: object) -> Iterator[Stage]:
    """A router with these models, whose children take these flags; see `tests/fakes/fake_llama_server.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = write_model(folder / "model.gguf", ModelSpec())
    port, key = free_port(), secrets.token_urlsafe(24)
    config = {
        "api": {"host": "127.0.0.1", "port": port},
        "system": {"base_port": free_port(), "state_dir": "state", **system},
        "models": {name: {"model_path": str(file), "flags": [*flags]} for name in models},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    binary = _executable(folder / "llama-server")
    env = {**environment(), "API_KEY": key, "LLAMA_SERVER_PATH": str(binary), "CONFIG_PATH": "", "BASE_MODELS_PATH": ""}
    command = [sys.executable, str(ROOT / "run.py")]
    with (folder / "router.log").open("wb") as log, started(command, cwd=folder, env=env, output=log) as process:
        wait_for_port(port, process)
        wait_until(lambda: _knows_llama(port), "the search for llama.cpp", process)
        yield Stage(port, key, process)


def _knows_llama(port: int) -> bool:
    health = httpx.get(f"http://127.0.0.1:{port}/health").json()
    return "fake" in str(health["llama_server"])


def _executable(path: Path) -> Path:
    words = shlex.join([sys.executable, "-I", "-S", str(_CHILD)])
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def _body(ask: Ask) -> dict[str, object]:
    return {"model": ask.model, "max_tokens": ask.tokens, "messages": [{"role": "user", "content": "Go on."}]}


async def _evictions(client: httpx.AsyncClient) -> int:
    page = (await client.get("/metrics")).text
    return round(sum(float(value) for value in _EVICTIONS.findall(page)))
