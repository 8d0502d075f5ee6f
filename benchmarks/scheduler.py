"""`python -m benchmarks.scheduler`: how many decisions per second the pure core makes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from statistics import median

from benchmarks.figures import HEADINGS, Figure, Goal, table
from router.core.commands import Command, Grant
from router.core.scheduler import Scheduler
from router.core.types import HOST, Device, DeviceKind, LeaseId, ModelSpec, Need, Policy, Priority, Ticket

QUEUED = 10_000
_SLOTS = 8
_GIB = 1024**3
_FAR = 1e9
_GOAL = Goal("at least", 100_000)
_CLASSES = tuple(Priority)


class Bench:
    """A scheduler with one ready model whose slots are all granted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._tickets = 0
        host = Device(HOST, DeviceKind.HOST, None, "RAM", 64 * _GIB, 64 * _GIB)
        spec = ModelSpec("bench", _SLOTS, Need(0, _GIB))
        self.scheduler = Scheduler(Policy(max_queue=2 * QUEUED), [spec], [host])
        for _ in range(_SLOTS):
            self.submit()
        replica = self.scheduler.view("bench", self.now).replica
        if replica is None:
            raise RuntimeError("the scheduler has not started the model")
        self.leases = granted(self.scheduler.replica_ready(replica, _SLOTS, self.now, readings=(), usage={}))

    def submit(self) -> list[Command]:
        self._tickets += 1
        self.now += 1e-5
        ticket = Ticket(self._tickets, "bench", _CLASSES[self._tickets % len(_CLASSES)], self.now, _FAR)
        return self.scheduler.submit(ticket, self.now)


def granted(commands: Iterable[Command]) -> list[LeaseId]:
    return [command.lease for command in commands if isinstance(command, Grant)]


def with_free_slot(count: int) -> float:
    """Grants per second when a slot is free: submit, granted, end."""
    bench = Bench()
    for lease in bench.leases:
        bench.scheduler.end(lease, bench.now)
    began = time.perf_counter()
    for _ in range(count):
        for lease in granted(bench.submit()):
            bench.scheduler.end(lease, bench.now)
    return count / (time.perf_counter() - began)


def with_queue(count: int) -> float:
    """Grants per second while 10,000 wait: each ended lease grants the next one, and a new one queues up."""
    bench = Bench()
    for _ in range(QUEUED):
        bench.submit()
    leases, grants = bench.leases, 0
    began = time.perf_counter()
    while grants < count:
        leases += granted(bench.scheduler.end(leases.pop(), bench.now))
        bench.submit()
        grants += 1
    seconds = time.perf_counter() - began
    if len(leases) != _SLOTS:
        raise RuntimeError(f"{len(leases)} leases on {_SLOTS} slots")
    return count / seconds


def figures(*, rounds: int, count: int) -> list[Figure]:
    """The medians over the rounds."""

    def middle(measured: Callable[[int], float]) -> float:
        return median(measured(count) for _ in range(rounds))

    queued = f"core, {QUEUED:,} queued: submit, end, grant"
    return [
        Figure(queued, "grants/s", "", middle(with_queue), _GOAL, unit=""),
        Figure("core, a slot free: submit, grant, end", "grants/s", "", middle(with_free_slot), _GOAL, unit=""),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--count", type=int, default=50_000, metavar="N", help="grants in a round (default: 50000)")
    options = parser.parse_args()
    found = figures(rounds=options.rounds, count=options.count)
    print(table(HEADINGS, [figure.cells() for figure in found]))
    return int(any(figure.missed for figure in found))


if __name__ == "__main__":
    sys.exit(main())
