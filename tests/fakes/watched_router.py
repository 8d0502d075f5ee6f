"""The router, telling how many tasks it has: `python tests/fakes/watched_router.py OUT` runs `serve`.

At each SIGUSR2 it writes to OUT, one per line, the names of the tasks that are not done.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from router.cli import main as run_router


def main(out: Path) -> int:
    def tell(number: int, frame: FrameType | None) -> None:
        names = sorted(task.get_name() for task in asyncio.all_tasks())
        unfinished = out.with_suffix(".part")
        unfinished.write_text("\n".join(names), encoding="utf-8")
        unfinished.rename(out)

    signal.signal(signal.SIGUSR2, tell)
    return run_router([])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
