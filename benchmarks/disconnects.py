"""`python -m benchmarks.disconnects`: how soon the upstream hears that the client of a stream has left.

Each client takes the first chunk of a stream that is silent from then on, so that no write can tell the router that
nobody reads, and hangs up; the upstream notes when its socket was closed. Other streams keep the router busy meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from urllib.request import Request, urlopen

import uvloop

from benchmarks import load, machine
from benchmarks.contenders import router
from benchmarks.figures import HEADINGS, Figure, Goal, table
from benchmarks.load import Target
from benchmarks.script import CHUNKS, MODEL, Plan, request_body

_WORK = "{count} clients of streams leave, beside {busy} busy streams"
_MUST_MS = 250.0
_CLIENTS, _BUSY_STREAMS = 8, 8
_SILENCE_SEC = 3600.0
_PATIENCE_SEC = 60.0
_BETWEEN_LOOKS_SEC = 0.05

Moments = dict[int, int]  # nanoseconds of the monotonic clock, by a stream's tag


def measure(target: Target, count: int) -> list[float]:
    """Seconds from each client's close to that of its upstream. Raises TimeoutError."""
    left = uvloop.run(_leave_all(target, count))
    closed = _closed(target, count)
    return [(closed[tag] - moment) / 1e9 for tag, moment in left.items()]


async def _leave_all(target: Target, count: int) -> Moments:
    """Let so many clients leave, some of them at the same time."""
    left: Moments = {}
    tags = iter(range(1, count + 1))
    async with asyncio.timeout(_PATIENCE_SEC):
        company = asyncio.create_task(_keep_busy(target))
        try:
            await asyncio.gather(*(_leave_one_by_one(target, tags, left) for _ in range(_CLIENTS)))
        finally:
            company.cancel()
            await asyncio.gather(company, return_exceptions=True)
    return left


async def _keep_busy(target: Target) -> None:
    plan = Plan(stream=True, chunks=CHUNKS, pause=0)
    await load.run(target, plan, connections=_BUSY_STREAMS, seconds=_PATIENCE_SEC)


async def _leave_one_by_one(target: Target, tags: Iterator[int], left: Moments) -> None:
    for tag in tags:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(target.request(request_body(Plan(stream=True, chunks=2, pause=_SILENCE_SEC, tag=tag))))
        await reader.readuntil(b"data: ")
        writer.close()
        left[tag] = time.monotonic_ns()


def _closed(target: Target, count: int) -> Moments:
    """What the upstream has noted, once that is everything."""
    address = f"http://127.0.0.1:{target.port}/upstream/{MODEL}/given-up"
    request = Request(address, headers={"authorization": f"Bearer {target.key}"})
    deadline = time.monotonic() + _PATIENCE_SEC
    while True:
        with urlopen(request, timeout=_PATIENCE_SEC) as response:  # noqa: S310  the address is ours
            noted: Mapping[str, int] = json.load(response)
        if len(noted) == count:
            return {int(tag): moment for tag, moment in noted.items()}
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count - len(noted)} of {count} upstream streams were never closed")
        time.sleep(_BETWEEN_LOOKS_SEC)


def figures(delays: Sequence[float]) -> list[Figure]:
    work = _WORK.format(count=len(delays), busy=_BUSY_STREAMS)
    values = {"p50": median(delays), "p99": quantiles(delays, n=100)[98]}
    goal = Goal("at most", _MUST_MS)
    return [Figure(work, f"upstream closed, {name}", "", value * 1000, goal, " ms") for name, value in values.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when the upstream hears of it too late."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disconnects", description=__doc__)
    parser.add_argument("--count", type=int, default=200, metavar="N", help="clients that leave (default: %(default)s)")
    options = parser.parse_args(arguments)
    cores = machine.cores()
    machine.allow_many_sockets()
    machine.pin(cores.load)
    with (
        tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder,
        router(cores, Path(folder)) as contender,
    ):
        found = figures(measure(contender.streams, options.count))
    print(table(HEADINGS, (figure.cells() for figure in found)))
    return int(any(figure.missed for figure in found))


if __name__ == "__main__":
    sys.exit(main())
