"""Leases whose clients have gone while the child may still be at work for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from router.engine.lease import Lease
from router.engine.ports import SlotReading


class AbandonedLeases:
    """Tells from `/slots` when an abandoned lease is over.

    A child does not say which request a slot works for, but each of its tasks has a number of its own. So the tasks
    that are busy when a lease has just been abandoned are remembered, and with them the leases that are served at that
    time. Of those tasks, as many as exceed those leases that still run belong to abandoned ones. What is granted later
    brings new tasks and changes nothing. A lease so young that its task might not have been among them yet
    (`Lease.shown_by`) is looked for afterwards: if no new task is its own, one of those remembered is.

    A lease may be abandoned while its child still reads its request, which is then worked at in spite of all. It is
    kept, and each look is one more at new tasks, until as many are busy as there can be or its time has come.

    A lease for several slots has a task for each, and some may end before the others. Nobody tells which are its own,
    so one that is served is counted with the one task that it has at least: beside it an abandoned one may be held for
    too long, but never for too short. Of several abandoned ones the widest goes first, as long as the others hold
    enough slots for what is still busy.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._since: dict[int, float] = {}
        self._coming: dict[int, float] = {}  # those whose tasks have not been seen: until when they may turn up
        self._fresh = False
        self._tasks: set[int] = set()
        self._company: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    @property
    def oldest(self) -> float | None:
        """When the first of them was abandoned, and had come to its slot."""
        return min((self._coming.get(lease, since) for lease, since in self._since.items()), default=None)

    @property
    def newest(self) -> float | None:
        """When the last of them was abandoned."""
        return max(self._since.values(), default=None)

    def add(self, lease: Lease, now: float) -> None:
        self._leases[lease.id] = lease
        self._since[lease.id] = now
        self._coming[lease.id] = max(lease.shown_by, now)
        self._fresh = True

    def settle(self, busy: Iterable[SlotReading], serving: Sequence[Lease], now: float) -> list[Lease]:
        """Take out those that are over, given a look at the busy slots.

        Args:
            serving, now: the served leases and the time when the look began; what is newer it may not have seen.
        """
        if not self._leases:
            return []
        tasks = {slot.task for slot in busy}
        shown = {lease.id for lease in serving if lease.shown_by < now}
        if len(tasks) >= sum(lease.width for lease in (*serving, *self._leases.values())):
            self._coming.clear()
        self._coming = {lease: until for lease, until in self._coming.items() if until >= now}
        if self._fresh:
            self._fresh = bool(self._coming)
            self._tasks |= tasks
            self._company |= shown
        self._tasks &= tasks
        self._company &= {lease.id for lease in serving}
        hidden = max(0, len(shown - self._company) - len(tasks - self._tasks))
        at_work = max(0, len(self._tasks) - len(self._company) - hidden)
        come = [lease for lease in self._leases.values() if lease.id not in self._coming]
        over = _spare(come, at_work)
        for lease in over:
            del self._leases[lease.id], self._since[lease.id]
        return over


def _spare(leases: Sequence[Lease], busy: int) -> list[Lease]:
    """Those without which the others still hold so many slots; of equally wide ones the oldest."""
    spare, held = [], sum(lease.width for lease in leases)
    for lease in sorted(leases, key=lambda lease: -lease.width):
        if held - lease.width >= busy:
            held -= lease.width
            spare.append(lease)
    return spare
