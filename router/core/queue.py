"""The waiting line of one model.

A ticket's place is its fixed virtual deadline, arrival + the offset of its class. Fixed keys age for free: a low ticket
that has waited a minute stands beside a high one that has just come, so nobody starves and nothing is ever re-scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Generic, TypeAlias, TypeVar

from router.core.types import Priority, Ticket, TicketId

T = TypeVar("T")
_Entry: TypeAlias = tuple[float, int, int, T]  # key, number of the push, id, item

# Cancelled entries stay in the heap until they surface; beyond this many they are swept out.
_SLACK = 64


class LazyHeap(Generic[T]):
    """A heap of items by (key, insertion order) with removal by id in O(1); swept in amortised O(1)."""

    def __init__(self) -> None:
        self._heap: list[_Entry[T]] = []
        self._live: dict[int, _Entry[T]] = {}  # one that is not in here by identity has been taken out
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[T]:
        """Live items in insertion order."""
        return (entry[3] for entry in self._live.values())

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._live

    def push(self, key: float, item_id: int, item: T) -> None:
        self._pushed += 1
        self._live[item_id] = entry = (key, self._pushed, item_id, item)
        heappush(self._heap, entry)

    def discard(self, item_id: int) -> T | None:
        """Take an item out wherever it stands; None when it is not there."""
        found = self._live.pop(item_id, None)
        if len(self._heap) > 2 * len(self._live) + _SLACK:
            self._heap = list(self._live.values())
            heapify(self._heap)
        return None if found is None else found[3]

    def is_first(self, item_id: int) -> bool:
        """Whether this item is at the head; also False while one that was taken out still stands before it."""
        return bool(self._heap) and self._heap[0][2] == item_id

    def peek(self) -> tuple[float, T] | None:
        """The first key and item; None when empty."""
        while self._heap:
            entry = self._heap[0]
            if self._live.get(entry[2]) is entry:
                return entry[0], entry[3]
            heappop(self._heap)
        return None

    def pop(self) -> T | None:
        """Take the first item out; None when empty."""
        live = self._live
        while live:
            entry = heappop(self._heap)
            if live.get(entry[2]) is entry:
                del live[entry[2]]
                return entry[3]
        self._heap.clear()
        return None

    def get(self, item_id: int) -> T | None:
        found = self._live.get(item_id)
        return None if found is None else found[3]

    def position(self, item_id: int) -> int | None:
        """How many stand before this item; None when it is not there. Looks at all of them."""
        found = self._live.get(item_id)
        return None if found is None else sum(entry < found for entry in self._live.values())


class TicketQueue(LazyHeap[Ticket]):
    """Waiters of one model in the order in which they will be served."""

    def __init__(self, offsets: Mapping[Priority, float]) -> None:
        super().__init__()
        self._offsets = offsets
        self._counts = dict.fromkeys(Priority, 0)

    def enter(self, ticket: Ticket) -> None:
        self.push(ticket.arrived + self._offsets[ticket.priority], ticket.id, ticket)
        self._counts[ticket.priority] += 1

    def discard(self, item_id: TicketId) -> Ticket | None:
        ticket = super().discard(item_id)
        if ticket is not None:
            self._counts[ticket.priority] -= 1
        return ticket

    def pop(self) -> Ticket | None:
        ticket = super().pop()
        if ticket is not None:
            self._counts[ticket.priority] -= 1
        return ticket

    def head_key(self) -> float | None:
        """The earliest virtual deadline; None when nobody waits."""
        head = self.peek()
        return None if head is None else head[0]

    def by_priority(self) -> dict[Priority, int]:
        return dict(self._counts)

    def oldest_arrival(self) -> float | None:
        return min((ticket.arrived for ticket in self), default=None)
