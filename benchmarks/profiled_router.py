"""The router under observation: `python -m benchmarks.profiled_router OUT` runs `serve`; each SIGUSR1 begins a stage.

First the garbage collector is timed. Then it is turned off, since cProfile would count it to whatever function it
interrupts, and the profile is taken. At last OUT gets the profile, and `OUT.collector` the collector's seconds.
"""

from __future__ import annotations

import cProfile
import gc
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from router.cli import main as run_router


class Collector:
    """Seconds spent in garbage collections."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:  # noqa: ARG002  as `gc.callbacks` calls it
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began


def stages(out: Path) -> list[Callable[[], None]]:
    profile, collector = cProfile.Profile(), Collector()

    def time_the_collector() -> None:
        gc.callbacks.append(collector)

    def take_the_profile() -> None:
        gc.callbacks.remove(collector)
        gc.disable()
        profile.enable()

    def write() -> None:
        profile.disable()
        gc.enable()
        out.with_name(f"{out.name}.collector").write_text(repr(collector.seconds), encoding="ascii")
        unfinished = out.with_name(f"{out.name}.part")
        profile.dump_stats(unfinished)
        unfinished.rename(out)

    return [time_the_collector, take_the_profile, write]


def main(out: str) -> int:
    left = iter(stages(Path(out)))

    def next_stage(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        next(left)()

    signal.signal(signal.SIGUSR1, next_stage)
    return run_router([])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
