"""`python scripts/soak.py --minutes N`: everything that can happen to a router, in any order, for as long as you like.

The state machine of `tests/chaos` against one router that lives as long as the soak. Each round has a seed of its own;
a round that fails has said which, and `--seed` begins with it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.chaos.machine import AnyOrder
from tests.chaos.world import World, world
from tests.support.size import size_of

_ROUND = settings(
    max_examples=10,
    stateful_step_count=50,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def soak(found: World, seconds: float, first_seed: int) -> None:
    """Rounds until the time is over. Raises AssertionError where something does not hold."""
    AnyOrder.world = found
    before = found.rested_size()
    began, number = time.monotonic(), first_seed
    while time.monotonic() < began + seconds:
        resident = size_of(found.running).resident >> 20
        print(f"{time.monotonic() - began:6.0f} s  seed {number}  {resident} MiB  {dict(found.counts)}", flush=True)
        run_state_machine_as_test(seed(number)(AnyOrder), settings=_ROUND)
        number += 1
    found.is_as_small_as(before)
    print(f"nothing lost, nothing left: {dict(found.counts)}\n{before}\n{size_of(found.running)}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of the first round")  # noqa: S311
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, world(Path(folder)) as found:
        try:
            soak(found, options.minutes * 60, options.seed)
        except BaseException:
            kept = Path(tempfile.gettempdir(), f"soak-{options.seed}.log")
            kept.write_text(found.running.log, encoding="utf-8")
            print(f"the router's log is in {kept}", file=sys.stderr)
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
