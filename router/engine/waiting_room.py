"""Those who wait for the answer to a ticket, between the submission and the lease or the refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.core.types import Ticket, TicketId
from router.engine.lease import Lease
from router.errors import RouterError


class WaitingRoom:
    """Hands each answer to the one who asked.

    Args:
        left: called when somebody leaves before there is an answer.
        unused: called with a lease that nobody is left to take.
    """

    def __init__(self, *, left: Callable[[TicketId], None], unused: Callable[[Lease], None]) -> None:
        self._left = left
        self._unused = unused
        self._tickets: dict[TicketId, Ticket] = {}
        self._settled: dict[TicketId, Lease | RouterError] = {}
        self._futures: dict[TicketId, asyncio.Future[Lease]] = {}

    def enter(self, ticket: Ticket) -> None:
        self._tickets[ticket.id] = ticket

    def ticket(self, ticket: TicketId) -> Ticket:
        """One that has no answer yet. Raises KeyError."""
        return self._tickets[ticket]

    def settle(self, ticket: TicketId, answer: Lease | RouterError) -> None:
        """Answer a ticket, whether its owner already waits or not."""
        future = self._futures.get(ticket)
        if future is None:
            self._settled[ticket] = answer
        elif future.done():  # cancelled, and its owner has not run since
            if isinstance(answer, Lease):
                self._unused(answer)
        elif isinstance(answer, RouterError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        del self._tickets[ticket]

    def settled(self, ticket: TicketId) -> Lease | None:
        """The lease if it is there already; None: wait for the `answer`. Raises the error that was given instead."""
        found = self._settled.pop(ticket, None)
        if isinstance(found, RouterError):
            raise found
        return found

    def leave(self, ticket: TicketId) -> None:
        """Nobody is going to ask for this ticket's answer."""
        settled = self._settled.pop(ticket, None)
        if isinstance(settled, Lease):
            self._unused(settled)
        elif self._tickets.pop(ticket, None) is not None:
            self._left(ticket)

    async def answer(self, ticket: TicketId) -> Lease:
        """Wait for the lease. Raises the error that was given instead."""
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._futures[ticket] = future
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled() or not future.done():
                if self._tickets.pop(ticket, None) is not None:
                    self._left(ticket)
            elif future.exception() is None:
                self._unused(future.result())  # granted, but nothing was sent
            raise
        finally:
            del self._futures[ticket]
