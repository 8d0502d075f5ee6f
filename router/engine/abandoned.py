"""Leases whose clients have gone while the child may still be at work for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

from router.engine.lease import Lease
from router.engine.ports import SlotReading

# After its grant a request has reached its slot; until then `/slots` may not show it.
_DISPATCH_SEC = 0.05


class AbandonedLeases:
    """Tells from `/slots` when an abandoned lease is over.

    A child does not say which request a slot works for, but each of its tasks has a number of its own. So the tasks
    that are busy when a lease has just been abandoned are remembered, and with them the leases that are served at that
    time. Of those tasks, as many as exceed those leases that still run belong to abandoned ones. What is granted later
    brings new tasks and changes nothing. A lease so young that its task might not have been among them yet is looked
    for afterwards: if no new task is its own, one of those remembered is.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._since: dict[int, float] = {}
        self._fresh = False
        self._tasks: set[int] = set()
        self._company: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    @property
    def oldest(self) -> float | None:
        """When the first of them was abandoned."""
        return min(self._since.values(), default=None)

    @property
    def newest(self) -> float | None:
        """When the last of them was abandoned."""
        return max(self._since.values(), default=None)

    def add(self, lease: Lease) -> None:
        self._leases[lease.id] = lease
        self._since[lease.id] = monotonic()
        self._fresh = True

    def settle(self, busy: Iterable[SlotReading], serving: Sequence[Lease], now: float) -> list[Lease]:
        """Take out those that are over, given the busy slots and the served leases of now."""
        if not self._leases:
            return []
        tasks = {slot.task for slot in busy}
        if self._fresh:
            self._fresh = False
            self._tasks |= tasks
            self._company |= {lease.id for lease in serving if now - lease.granted_at > _DISPATCH_SEC}
        self._tasks &= tasks
        self._company &= {lease.id for lease in serving}
        others = sum(now - lease.granted_at > _DISPATCH_SEC for lease in serving) - len(self._company)
        hidden = max(0, others - len(tasks - self._tasks))
        at_work = max(0, len(self._tasks) - len(self._company) - hidden)
        over = list(self._leases.values())[: max(0, len(self._leases) - at_work)]
        for lease in over:
            del self._leases[lease.id], self._since[lease.id]
        return over
