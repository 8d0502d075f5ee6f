"""A router that is told to end while streams are open."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import uvloop

from benchmarks.faults.site import Ending, Site, judge, site
from benchmarks.figures import Figure, Goal

_TOKENS, _TOKEN_SEC = 60, 0.05
_PATIENCE_SEC = 60.0


def measure(folder: Path, streams: int) -> list[Figure]:
    """SIGTERM amid so many streams, which take some seconds more."""
    flags = ("-np", str(streams), "--token-delay", str(_TOKEN_SEC))
    with site(folder, {"m": flags}) as found:
        truncated, last = uvloop.run(_drain(found, streams))
        code = found.running.process.wait(_PATIENCE_SEC)
        exit_seconds = time.monotonic() - last
    if code != 0:
        raise RuntimeError(f"the router ended with {code}")
    work = f"SIGTERM with {streams} open streams of {_TOKENS * _TOKEN_SEC:g} s"
    return [
        Figure(work, "truncated inside the drain deadline", "", truncated, Goal("at most", 0), ""),
        Figure(work, "exit after the end of the last", "", exit_seconds, Goal("at most", 1), " s"),
    ]


async def _drain(found: Site, streams: int) -> tuple[int, float]:
    """How many streams were not whole, and when the last one ended."""
    content = json.dumps(
        {"model": "m", "max_tokens": _TOKENS, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    ).encode()
    begun = asyncio.Barrier(streams + 1)

    async def read() -> tuple[Ending, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        raw = await reader.readuntil(b"word0")
        await begun.wait()
        raw += await reader.read()
        ended = time.monotonic()
        writer.close()
        return judge(raw, tokens=_TOKENS, stream=True)[0], ended

    async with asyncio.timeout(_PATIENCE_SEC):
        reading = [asyncio.create_task(read()) for _ in range(streams)]
        await begun.wait()
        found.running.process.send_signal(signal.SIGTERM)
        endings = await asyncio.gather(*reading)
    return sum(ending is not Ending.WHOLE for ending, _ in endings), max(ended for _, ended in endings)
