"""What it spares a load that its files were read ahead while another model made room.

    python -m benchmarks.read_ahead [--folder DIR] [--drain 2] [--rounds 3]

A model of some 470 MiB is taken out of the page cache and loaded by the real launcher and a real llama-server
(`LLAMA_SERVER_PATH`; without one the embedded llama.cpp): at once, after it was read ahead for as long as a victim
takes to drain, and once more with all of it in the cache. What is shown is the median time from the spawn to the
readiness. It is the disk below `--folder` that is measured; a cgroup with a bound for reads (`io.max`) makes a slow one
of any.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic

import uvloop

from benchmarks import machine
from benchmarks.figures import table
from benchmarks.memory_models import Model, write
from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.core.types import HOST, Placement
from tests.support.router import free_port

_MODEL = Model("llama", layers=10, embd=2048, ff=5632, heads=16, kv_heads=4, type="Q8_0")
_FLAGS = ("-t", "1", "-c", "512", "--cache-ram", "0")


async def measure(launcher: LlamaServerLauncher, file: Path, *, cached: bool, drain: float) -> float:
    """Seconds that one load takes; `drain` of reading ahead, if any, come before it."""
    if not cached:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # pages that are not on the disk yet would stay
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if drain:
        reading = asyncio.create_task(launcher.read_ahead("m", lambda: 1 << 40))
        await asyncio.sleep(drain)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    began = monotonic()
    child = await launcher.launch("m", 1, Placement({HOST: 1}))
    try:
        await child.ready()
        return monotonic() - began
    finally:
        await child.stop(grace=5)


async def run(folder: Path, *, drain: float, rounds: int) -> str:
    """The table."""
    file = write(_MODEL, folder)
    binary = os.environ.get("LLAMA_SERVER_PATH")
    launcher = LlamaServerLauncher(
        {"m": LlamaServerSpec(file, flags=_FLAGS)},
        state_dir=folder / "state",
        base_port=free_port(),
        binary=Path(binary) if binary else None,
    )
    ways = {"nothing": (False, 0.0), f"read ahead for {drain:g} s": (False, drain), "all in the cache": (True, 0.0)}
    rows = []
    try:
        await launcher.prepare()
        for name, (cached, ahead) in ways.items():
            found = [await measure(launcher, file, cached=cached, drain=ahead) for _ in range(rounds)]
            rows.append((name, f"{median(found):.2f} s", f"{min(found):.2f} to {max(found):.2f} s"))
    finally:
        await launcher.close()
    return table(("before the load", "spawn to ready", "least to most"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the model is written; a temporary one by default")
    parser.add_argument("--drain", type=float, default=2.0, help="seconds that it is read ahead for")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama-router-bench-", dir=options.folder) as folder:
        print(f"{machine.description()}\n")
        print(uvloop.run(run(Path(folder), drain=options.drain, rounds=options.rounds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
