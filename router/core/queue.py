"""The waiting line of one model.

A ticket's place is its fixed virtual deadline, arrival + the offset of its class. Fixed keys age for free: a low ticket
that has waited a minute stands beside a high one that has just come, so nobody starves and nothing is ever re-scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

    def before(self, item_id: int) -> list[T]:
        """Those that stand before this item, in any order; empty when it is not there. Looks at all of them."""
        found = self._live.get(item_id)
        return [] if found is None else [entry[3] for entry in self._live.values() if entry < found]


class TicketQueue(LazyHeap[Ticket]):
    """Waiters of one model in the order in which they will be served.

    Args:
        offsets: seconds from the arrival to the virtual deadline.
        slots: that the model is expected to have; no ticket counts for more.
    """

    def __init__(self, offsets: Mapping[Priority, float], slots: int) -> None:
        super().__init__()
        self._offsets = offsets
        self._slots = slots
        self._counts = dict.fromkeys(Priority, 0)
        self.width = 0  # slots that all of them will take

    def adopt(self, offsets: Mapping[Priority, float], slots: int) -> None:
        """Go by other offsets and slots from now on. The keys of those who wait stay as they are."""
        self._offsets, self._slots = offsets, slots
        self.width = self.width_of(self)

    def enter(self, ticket: Ticket) -> None:
        self.push(ticket.arrived + self._offsets[ticket.priority], ticket.id, ticket)
        self._counts[ticket.priority] += 1
        self.width += min(ticket.width, self._slots)

    def discard(self, item_id: TicketId) -> Ticket | None:
        return self._count_out(super().discard(item_id))

    def pop(self) -> Ticket | None:
        return self._count_out(super().pop())

    def width_of(self, tickets: Iterable[Ticket]) -> int:
        """Slots that these will take."""
        return sum(min(ticket.width, self._slots) for ticket in tickets)

    def _count_out(self, ticket: Ticket | None) -> Ticket | None:
        if ticket is not None:
            self._counts[ticket.priority] -= 1
            self.width -= min(ticket.width, self._slots)
        return ticket

    def head_key(self) -> float | None:
        """The earliest virtual deadline; None when nobody waits."""
        head = self.peek()
        return None if head is None else head[0]

    def by_priority(self) -> dict[Priority, int]:
        return dict(self._counts)

    def oldest_arrival(self) -> float | None:
        return min((ticket.arrived for ticket in self), default=None)
