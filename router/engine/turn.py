"""One request's standing with the queue of its model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from router.core.affinity import Marks
from router.core.types import LinePlace, Priority, Ticket, TicketId
from router.engine.lease import Lease


class Desk(Protocol):
    """Where tickets are handed in; the engine."""

    def enter(self, ticket: Ticket) -> None:
        """Queue a ticket. Its answer has to be waited for, or left."""

    def ask(self, ticket: Ticket) -> Lease | None:
        """The lease if a slot is free; None: the ticket has been entered."""

    async def answer(self, ticket: TicketId) -> Lease:
        """The lease, without a suspension if it is there already. Raises RouterError."""

    def leave(self, ticket: TicketId) -> None:
        """Take an entered ticket back, whose answer nobody waits for; a slot that it has got is free again."""

    def clock(self) -> float:
        """Seconds, as tickets tell them."""

    def place(self, ticket: TicketId) -> LinePlace | None:
        """Where a waiting ticket stands; None when it does not wait."""


class Turn:
    """Asks for a slot, again for a request whose replica died, and anew for the next piece of a request's work.

    Arrival and deadline of a request that comes back stay, so it stands at the head of its class. A piece arrives when
    it is asked for, behind all who wait in its class by then: with the request's own arrival it would stand before
    them, and a request of many pieces would keep everybody waiting for as long as one that is not cut. Its deadline is
    the request's, put off by the time that the pieces before it were served; so all its waits together are bounded as
    the one wait of any other request is.

    Args:
        ids: counts tickets.
        width: slots it takes.
        marks: of the beginnings of its text.
        arrived, deadline: of the engine's clock.
    """

    __slots__ = ("_arrived", "_deadline", "_desk", "_early", "_granted", "_ids", "_marks", "_model", "_priority",
                 "_ticket", "_waited", "_width")  # fmt: skip

    def __init__(
        self,
        desk: Desk,
        ids: Iterator[TicketId],
        model: str,
        priority: Priority,
        *,
        width: int,
        marks: Marks = (),
        arrived: float,
        deadline: float,
    ) -> None:
        self._desk = desk
        self._ids = ids
        self._model = model
        self._priority = priority
        self._width = width
        self._marks = marks
        self._arrived = arrived
        self._deadline = deadline
        self._ticket: TicketId = 0  # the last one; none has this number
        self._waited = 0.0  # for the pieces before this one
        self._early: TicketId | None = None  # one whose answer nobody has waited for yet
        self._granted = arrived

    async def lease(self) -> Lease:
        """Wait for a slot, without a suspension if one is free; leaving early (cancellation) leaves the queue at once.

        Raises:
            RouterError: no slot, and why.
        """
        early, self._early = self._early, None
        lease = None if early is not None else self._desk.ask(self._fresh_ticket())
        if lease is None:
            lease = await self._desk.answer(self._ticket)
        self._granted = lease.granted_at
        return lease

    def renew(self) -> None:
        """Stand in the queue for the next piece, at once; `lease` waits for it, and `leave` takes it back.

        To be called while the lease of the last piece is still held, so that its model does not look idle between two,
        and is not unloaded there.
        """
        now = self._desk.clock()
        self._waited += self._granted - self._arrived
        self._arrived, self._deadline = now, self._deadline + now - self._granted
        ticket = self._fresh_ticket()
        self._desk.enter(ticket)
        self._early = ticket.id

    def leave(self) -> None:
        """Take back what `renew` asked for, if nobody has waited for it."""
        if self._early is not None:
            self._desk.leave(self._early)
            self._early = None

    def _fresh_ticket(self) -> Ticket:
        again = bool(self._ticket)
        self._ticket = ticket = next(self._ids)
        return Ticket(
            ticket, self._model, self._priority, self._arrived, self._deadline, again, self._width, self._marks,
            self._waited,
        )  # fmt: skip

    def place(self) -> LinePlace | None:
        """Where it stands in the queue; None when it does not wait."""
        return self._desk.place(self._ticket)
