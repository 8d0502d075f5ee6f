"""The waiting line of one model.

A ticket's place is its fixed virtual deadline, arrival + the offset of its class. Fixed keys age for free: a low ticket
that has waited a minute stands beside a high one that has just come, so nobody starves and nothing is ever re-scored.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from router.core.types import Priority, Ticket, TicketId

T = TypeVar("T")

# Cancelled entries stay in the heap until they surface; beyond this many they are swept out.
_SLACK = 64


class LazyHeap(Generic[T]):
    """A heap of items by (key, insertion order) with removal by id in O(1); swept in amortised O(1)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int]] = []
        self._live: dict[int, tuple[int, T]] = {}
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[T]:
        """Live items in insertion order."""
        return (item for _, item in self._live.values())

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._live

    def get(self, item_id: int) -> T | None:
        found = self._live.get(item_id)
        return None if found is None else found[1]

    def push(self, key: float, item_id: int, item: T) -> None:
        self._pushed += 1
        self._live[item_id] = (self._pushed, item)
        heapq.heappush(self._heap, (key, self._pushed, item_id))

    def discard(self, item_id: int) -> T | None:
        """Take an item out wherever it stands; None when it is not there."""
        found = self._live.pop(item_id, None)
        if len(self._heap) > 2 * len(self._live) + _SLACK:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)
        return None if found is None else found[1]

    def peek(self) -> tuple[float, T] | None:
        """The first key and item; None when empty."""
        while self._heap:
            entry = self._heap[0]
            if self._is_live(entry):
                return entry[0], self._live[entry[2]][1]
            heapq.heappop(self._heap)
        return None

    def pop(self) -> T | None:
        """Take the first item out; None when empty."""
        while self._heap:
            entry = heapq.heappop(self._heap)
            if self._is_live(entry):
                return self._live.pop(entry[2])[1]
        return None

    def _is_live(self, entry: tuple[float, int, int]) -> bool:
        found = self._live.get(entry[2])
        return found is not None and found[0] == entry[1]


class TicketQueue:
    """Waiters of one model in the order in which they will be served."""

    def __init__(self, offsets: Mapping[Priority, float]) -> None:
        self._offsets = offsets
        self._heap: LazyHeap[Ticket] = LazyHeap()
        self._counts: Counter[Priority] = Counter()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._heap)

    def push(self, ticket: Ticket) -> None:
        self._heap.push(self._key(ticket), ticket.id, ticket)
        self._counts[ticket.priority] += 1

    def discard(self, ticket: TicketId) -> Ticket | None:
        return self._count_out(self._heap.discard(ticket))

    def pop(self) -> Ticket | None:
        return self._count_out(self._heap.pop())

    def head_key(self) -> float | None:
        """The earliest virtual deadline; None when nobody waits."""
        head = self._heap.peek()
        return None if head is None else head[0]

    def position(self, ticket: Ticket) -> int:
        """The place of a waiting ticket, 1 = next. Looks at every waiter; ids must grow with time."""
        mine = (self._key(ticket), ticket.id)
        return sum((self._key(other), other.id) <= mine for other in self._heap)

    def by_priority(self) -> dict[Priority, int]:
        return {priority: self._counts[priority] for priority in Priority}

    def oldest_arrival(self) -> float | None:
        return min((ticket.arrived for ticket in self._heap), default=None)

    def _key(self, ticket: Ticket) -> float:
        return ticket.arrived + self._offsets[ticket.priority]

    def _count_out(self, ticket: Ticket | None) -> Ticket | None:
        if ticket is not None:
            self._counts[ticket.priority] -= 1
        return ticket
