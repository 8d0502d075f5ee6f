"""Real llama.cpp under eight streams: tokens per second through the router, and asked directly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks.contenders import Contender, free_port, router, started, wait_until_healthy
from benchmarks.load import BadAnswer, Target
from benchmarks.machine import Cores
from benchmarks.pinned import pinned
from benchmarks.script import MODEL, PATH
from scripts.make_demo_models import ModelSpec, write_model

STREAMS = 8
_PATIENCE_SEC = 300.0
_PREDICTED = re.compile(rb'"predicted_n":\s*(\d+)')
_FLAGS = ("-np", str(STREAMS), "-c", str(STREAMS * 1024), "-t", "1", "--cache-ram", "16")
_SIZE = ModelSpec(name="slow", layers=8, embd=512, ff=2048, heads=8)


@dataclass(frozen=True, slots=True)
class RealModel:
    """Attributes:
    direct: tokens per second without the router.
    ratio: of those through the router to these.
    """

    direct: float
    ratio: float


def real_model(cores: Cores, folder: Path, *, rounds: int, tokens: int) -> RealModel:
    """The medians of interleaved rounds in which each stream writes so many tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    model = write_model(folder / "model.gguf", _SIZE)
    with _alone(cores, model) as alone, router(cores, folder, llama=_llama(), model=model, flags=_FLAGS) as relay:
        pairs = []
        for contender in (alone, relay):
            asyncio.run(_rate(contender.streams, tokens=8))
        for _ in range(rounds):
            pairs.append([asyncio.run(_rate(who.streams, tokens)) for who in (alone, relay)])  # noqa: PERF401
    return RealModel(median(direct for direct, _ in pairs), median(relayed / direct for direct, relayed in pairs))


def _llama() -> list[str]:
    """The llama-server that is named, else the embedded one."""
    named = os.environ.get("LLAMA_SERVER_PATH")
    return [named] if named else [sys.executable, "-m", "router.backends.embedded"]


@contextlib.contextmanager
def _alone(cores: Cores, model: Path) -> Iterator[Contender]:
    port = free_port()
    where = ("-m", str(model), "--alias", MODEL, "--host", "127.0.0.1", "--port", str(port))
    with started(pinned(cores.load, *_llama(), *where, *_FLAGS)) as process:
        wait_until_healthy(port, process)
        yield Contender("direct", Target(port), Target(port))


async def _rate(target: Target, tokens: int) -> float:
    """Tokens per second of all streams together."""
    headers = {"authorization": f"Bearer {target.key}"} if target.key else {}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_SEC)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        began = time.perf_counter()
        url = f"http://127.0.0.1:{target.port}{PATH}"
        written = await asyncio.gather(*(_stream(session, url, tokens) for _ in range(STREAMS)))
        return sum(written) / (time.perf_counter() - began)


async def _stream(session: aiohttp.ClientSession, url: str, tokens: int) -> int:
    asked = {
        "model": MODEL, "stream": True, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
        "messages": [{"role": "user", "content": "Count."}],
    }  # fmt: skip
    async with session.post(url, json=asked) as response:
        end = b""
        async for chunk in response.content.iter_any():
            end = (end + chunk)[-4096:]
    found = _PREDICTED.search(end)
    if response.status != 200 or found is None or not end.endswith(b"data: [DONE]\n\n"):
        raise BadAnswer(f"{url} answered {response.status}: {end!r}")
    return int(found[1])
