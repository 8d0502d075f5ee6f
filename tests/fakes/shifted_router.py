"""The router, with a clock that jumps: `python tests/fakes/shifted_router.py` runs `serve`.

SIGUSR1 sets the time of day an hour ahead, SIGUSR2 an hour back, as somebody who sets the machine's clock would.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

_HOUR = 3600.0


class WallClock:
    """Stands for `time.time`. Attributes: offset: seconds by which it is wrong."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._true = time.time

    def __call__(self) -> float:
        return self._true() + self.offset

    def shift(self, seconds: float) -> None:
        self.offset += seconds


def main() -> int:
    clock = WallClock()
    time.time = clock  # before anything of the router is imported
    signal.signal(signal.SIGUSR1, lambda *_: clock.shift(_HOUR))
    signal.signal(signal.SIGUSR2, lambda *_: clock.shift(-_HOUR))
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from router.cli import main as run_router  # noqa: PLC0415

    return run_router([])


if __name__ == "__main__":
    sys.exit(main())
