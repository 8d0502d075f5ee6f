"""`python -m benchmarks.drain`: SIGTERM to a router with open streams.

The streams go through several models and end one after another, the last one some seconds after the signal. Told are
those that did not end as a whole stream does, and how long the router's process outlived the last of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import HEADINGS, Figure, Goal, table
from benchmarks.script import PATH
from benchmarks.stage import Stage, staged

_MODELS = ("a", "b", "c", "d")
_TOKEN_SEC = 0.1
_TOKENS = (10, 40)  # of the shortest and of the longest stream
_PATIENCE_SEC = 60.0
_WHOLE = b"data: [DONE]\n\n\r\n0\r\n\r\n"
_MUST_SEC = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes:
    truncated: streams without their proper end.
    exit_sec: from the end of the last stream to that of the process.
    code: its exit code.
    """

    streams: int
    truncated: int
    exit_sec: float
    code: int

    def figures(self) -> list[Figure]:
        work = f"SIGTERM with {self.streams} open streams"
        return [
            Figure(work, "truncated within the drain deadline", "", self.truncated, Goal("at most", 0), ""),
            Figure(work, "exit after the last stream", "", self.exit_sec, Goal("at most", _MUST_SEC), " s"),
        ]


def measure(streams: int, token_sec: float = _TOKEN_SEC) -> Outcome:
    """Open so many streams, send the signal when each has had its first token, and read them to their ends."""
    slots = -(-streams // len(_MODELS))
    flags = ["-np", str(slots), "--token-delay", str(token_sec)]
    with (
        tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder,
        staged(Path(folder), _MODELS, flags, max_concurrent_models=len(_MODELS)) as stage,
    ):
        return asyncio.run(_drain(stage, streams))


async def _drain(stage: Stage, count: int) -> Outcome:
    begun: asyncio.Queue[None] = asyncio.Queue()
    async with asyncio.timeout(_PATIENCE_SEC):
        streams = [asyncio.create_task(_stream(stage, number, count, begun)) for number in range(count)]
        for _ in streams:
            await begun.get()
        stage.process.send_signal(signal.SIGTERM)
        whole = await asyncio.gather(*streams)
        ended = time.monotonic()
        code = await asyncio.to_thread(stage.process.wait)
    return Outcome(count, count - sum(whole), time.monotonic() - ended, code)


async def _stream(stage: Stage, number: int, count: int, begun: asyncio.Queue[None]) -> bool:
    """Read one stream; returns whether it was whole. In any case it counts as begun."""
    shortest, longest = _TOKENS
    body = {
        "model": _MODELS[number % len(_MODELS)],
        "stream": True,
        "max_tokens": shortest + (longest - shortest) * number // count,
        "messages": [{"role": "user", "content": "Go on."}],
    }
    content = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {stage.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    try:
        writer.write(head.encode() + content)
        try:
            read = await reader.readuntil(b"data: ")
        finally:
            begun.put_nowait(None)
        read += await reader.read()
    except (asyncio.IncompleteReadError, OSError):
        return False
    finally:
        writer.close()
    return read.endswith(_WHOLE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a stream was cut, or the end took too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain", description=__doc__)
    parser.add_argument("--streams", type=int, default=100, metavar="N", help="open streams (default: %(default)s)")
    options = parser.parse_args(arguments)
    machine.allow_many_sockets()
    found = measure(options.streams).figures()
    print(table(HEADINGS, (figure.cells() for figure in found)))
    return int(any(figure.missed for figure in found))


if __name__ == "__main__":
    sys.exit(main())
