"""Tickets in, leases out: who waits until when, and who runs."""

from __future__ import annotations

from collections.abc import Iterator

from router.core.commands import Grant, Reject, RejectCode
from router.core.outbox import Outbox
from router.core.queue import LazyHeap
from router.core.records import Model, Replica, Run, State
from router.core.types import LeaseId, Ticket, TicketId


class Grants:
    """The books of the tickets and leases of all models. Part of the scheduler, and called by it alone."""

    def __init__(self, state: State, out: Outbox) -> None:
        self._models = state.models
        self._out = out
        self._waiting: LazyHeap[Ticket] = LazyHeap()  # by the deadline of the ticket
        self._leases: dict[LeaseId, Replica] = {}
        self._ids = 0

    # -- waiting -----------------------------------------------------------------------------------------------------

    def enter(self, model: Model, ticket: Ticket) -> None:
        """A ticket joins the line of its model."""
        if not model.queue:
            model.promised = False
        model.queue.enter(ticket)
        self._waiting.push(ticket.deadline, ticket.id, ticket)

    def is_first_to_expire(self, ticket: Ticket) -> bool:
        """Whether nobody's patience ends before this one's."""
        return self._waiting.is_first(ticket.id)

    def find(self, ticket: TicketId) -> Ticket | None:
        """A waiter; None when it does not wait."""
        return self._waiting.get(ticket)

    def leave(self, ticket: TicketId) -> Model | None:
        """A waiter goes; returns the model it waited for, None when it did not wait."""
        found = self._waiting.discard(ticket)
        if found is None:
            return None
        model = self._models[found.model]
        model.queue.discard(ticket)
        return model

    def first_deadline(self) -> float | None:
        """When the first waiter's patience ends; None when nobody waits."""
        head = self._waiting.peek()
        return None if head is None else head[0]

    def expired(self, now: float) -> Iterator[tuple[Model, Ticket]]:
        """Take out those whose patience has ended."""
        while (head := self._waiting.peek()) is not None and head[0] <= now:
            ticket = head[1]
            model = self.leave(ticket.id)
            if model is not None:
                yield model, ticket

    def turn_away(self, model: Model, code: RejectCode, message: str, retry_after: float | None = None) -> None:
        """All who wait for this model go without a slot."""
        while (ticket := model.queue.pop()) is not None:
            self._waiting.discard(ticket.id)
            self._out.add(Reject(ticket.id, model.spec.name, code, message, retry_after))

    # -- running -----------------------------------------------------------------------------------------------------

    def serve(self, model: Model, now: float) -> None:
        """Grant waiters the free slots of their model's replicas.

        The first one has the slots kept that it needs more of: else a wide one would never find them all free.
        """
        queue = model.queue
        while model.has_free_slots:
            head = queue.peek()
            replica = None if head is None else model.free_for(head[1])
            if head is None or replica is None:
                return
            queue.pop()
            self._waiting.discard(head[1].id)
            self.grant(model, replica, head[1], now)

    def grant(self, model: Model, replica: Replica, ticket: Ticket, now: float) -> None:
        """Give a ticket that does not wait (any more) its slots."""
        self._ids = lease = self._ids + 1
        width = min(replica.slots, ticket.width)
        replica.leases[lease] = Run(now, width)
        replica.busy += width
        if ticket.marks:
            replica.known.note(ticket.marks)
        replica.last_used = model.last_used = now
        self._leases[lease] = replica
        self._out.add(Grant(ticket.id, lease, replica.id, replica.model))

    def end(self, lease: LeaseId, now: float) -> Replica | None:
        """A lease is over; returns the replica it was on, None when it is not known (any more)."""
        replica = self._leases.pop(lease, None)
        if replica is None:
            return None
        model = self._models[replica.model]
        run = replica.leases.pop(lease)
        replica.busy -= run.width
        model.experience.service.note(now - run.since)
        replica.last_used = model.last_used = now
        return replica

    def forget(self, replica: Replica) -> None:
        """A replica is gone, and its leases with it."""
        for lease in replica.leases:
            del self._leases[lease]
        replica.leases.clear()
        replica.busy = 0
