"""One request's standing with the queue of its model."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

from router.core.types import LinePlace, Priority, Ticket, TicketId
from router.engine.lease import Lease


class Desk(Protocol):
    """Where tickets are handed in; the engine."""

    def wait(self, ticket: Ticket) -> Coroutine[Any, Any, Lease]:
        """The lease, without a suspension if a slot is free. Raises RouterError."""

    def place(self, ticket: TicketId) -> LinePlace | None:
        """Where a waiting ticket stands; None when it does not wait."""


class Turn:
    """Asks for a slot, and again for a request whose replica died.

    Arrival and deadline stay those of the request, so one that comes back stands at the head of its class.

    Args:
        ids: counts tickets.
        width: slots it takes.
        arrived, deadline: of the engine's clock.
    """

    __slots__ = ("_arrived", "_deadline", "_desk", "_ids", "_model", "_priority", "_ticket", "_width")

    def __init__(
        self,
        desk: Desk,
        ids: Iterator[TicketId],
        model: str,
        priority: Priority,
        *,
        width: int,
        arrived: float,
        deadline: float,
    ) -> None:
        self._desk = desk
        self._ids = ids
        self._model = model
        self._priority = priority
        self._width = width
        self._arrived = arrived
        self._deadline = deadline
        self._ticket: TicketId | None = None

    def lease(self) -> Coroutine[Any, Any, Lease]:
        """Wait for a slot, without a suspension if one is free; leaving early (cancellation) leaves the queue at once.

        Raises:
            RouterError: no slot, and why.
        """
        again = self._ticket is not None
        self._ticket = ticket = next(self._ids)
        return self._desk.wait(
            Ticket(ticket, self._model, self._priority, self._arrived, self._deadline, again, self._width)
        )

    def place(self) -> LinePlace | None:
        """Where it stands in the queue; None when it does not wait."""
        return None if self._ticket is None else self._desk.place(self._ticket)
