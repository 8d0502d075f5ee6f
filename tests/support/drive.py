"""Drives the real scheduler under a clock of its own, so that tests read like a transcript."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from router.core.affinity import Marks
from router.core.commands import Command, Evicted, Grant, Recycled, Reject, Start, Stop, WakeAt
from router.core.lifecycle import ReplicaState
from router.core.scheduler import Scheduler
from router.core.types import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    DeviceReading,
    Exhaustion,
    LeaseId,
    ModelSpec,
    Need,
    Policy,
    Priority,
    ReplicaId,
    Status,
    Ticket,
    TicketId,
)

GIB = 1024**3


def host(gib: int = 16) -> Device:
    return Device(HOST, DeviceKind.HOST, None, "RAM", gib * GIB, gib * GIB)


def gpu(index: int, gib: int = 16) -> Device:
    return Device(f"gpu:{index}", DeviceKind.GPU, index, f"GPU {index}", gib * GIB, gib * GIB)


def cpu_model(name: str, gib: float = 1, *, slots: int = 1, idle_timeout: float | None = None) -> ModelSpec:
    return ModelSpec(name, slots, Need(0, int(gib * GIB)), idle_timeout)


def gpu_model(name: str, gib: float = 1, *, slots: int = 1) -> ModelSpec:
    return ModelSpec(name, slots, Need(int(gib * GIB), 0))


class Drive:
    """A scheduler, the time, and everything it has commanded so far."""

    def __init__(
        self, models: Iterable[ModelSpec], *, devices: Iterable[Device] | None = None, policy: Policy | None = None
    ) -> None:
        self.now = 1000.0
        self.specs = {spec.name: spec for spec in models}
        self.scheduler = Scheduler(policy or Policy(), self.specs.values(), devices or [host()])
        self.granted: dict[TicketId, Grant] = {}
        self.rejected: dict[TicketId, Reject] = {}
        self.started: list[Start] = []
        self.stopped: list[Stop] = []
        self.evicted: list[Evicted] = []
        self.recycled: list[tuple[str, int]] = []
        self.wake: float | None = None
        # What the devices show, and what the next replica to become ready holds; nothing is said unless a test does.
        self.readings: tuple[DeviceReading, ...] = ()
        self.usage: Mapping[DeviceId, int] = {}
        self.tickets: dict[TicketId, Ticket] = {}
        self._tickets = 0

    def ask(
        self,
        model: str,
        priority: Priority = Priority.NORMAL,
        *,
        width: int = 1,
        timeout: float = 240.0,
        marks: Marks = (),
    ) -> TicketId:
        self._tickets += 1
        ticket = Ticket(self._tickets, model, priority, self.now, self.now + timeout, width=width, marks=marks)
        self.tickets[ticket.id] = ticket
        self.take(self.scheduler.submit(ticket, self.now))
        return ticket.id

    def leave(self, ticket: TicketId) -> None:
        self.take(self.scheduler.cancel(ticket, self.now))

    def end(self, ticket: TicketId) -> None:
        self.take(self.scheduler.end(self.lease(ticket), self.now))

    def positions(self, *tickets: TicketId) -> list[int]:
        """1 = next, 0 = does not wait."""
        places = (self.scheduler.place(ticket, self.now) for ticket in tickets)
        return [0 if place is None else place.position for place in places]

    def lease(self, ticket: TicketId) -> LeaseId:
        return self.granted[ticket].lease

    def replica(self, model: str) -> ReplicaId:
        found = self.scheduler.view(model, self.now).replica
        assert found is not None, f"{model} has no replica"
        return found

    def replicas(self, model: str, *states: ReplicaState) -> list[ReplicaId]:
        """Those in one of these states, or all, the oldest first."""
        found = self.scheduler.replicas.values()
        return [one.id for one in found if one.model == model and (not states or one.state in states)]

    def ready(self, model: str = "", *, replica: ReplicaId | None = None, slots: int | None = None) -> None:
        """A replica serves: this one, else the model's that has been loading for the longest."""
        if replica is None:
            replica = next(iter(self.replicas(model, ReplicaState.STARTING)), None) or self.replica(model)
        slots = slots or self.specs[self.scheduler.replicas[replica].model].slots
        self.take(self.scheduler.replica_ready(replica, slots, self.now, readings=self.readings, usage=self.usage))

    def exit(
        self,
        model: str = "",
        reason: str = "gone",
        *,
        replica: ReplicaId | None = None,
        reclaim: bool = True,
        exhausted: Exhaustion | None = None,
    ) -> None:
        """The child of a replica ends: of this one, else of the model's first."""
        replica = self.replica(model) if replica is None else replica
        self.take(self.scheduler.replica_exited(replica, reason, self.now, exhausted=exhausted))
        if reclaim:
            self.reclaim(replica)

    def allocated(self, model: str = "", *, replica: ReplicaId | None = None) -> None:
        replica = self.replica(model) if replica is None else replica
        self.take(self.scheduler.replica_allocated(replica, self.now))

    def observe(self, usage: Mapping[DeviceId, int] | None = None, *, of: str | None = None) -> None:
        """Look at the devices, and at what one model's replica holds."""
        held = {} if of is None else {self.replica(of): usage or {}}
        self.take(self.scheduler.memory_observed(self.readings, held, self.now))

    def need(self, model: str) -> Need:
        return self.scheduler.view(model, self.now).estimate

    def reclaim(self, replica: ReplicaId) -> None:
        self.take(self.scheduler.replica_reclaimed(replica, self.now, readings=self.readings))

    def load(self, model: str, *, evict: bool = True) -> None:
        self.take(self.scheduler.load(model, self.now, evict=evict))

    def eject(self, model: str, *, force: bool = False) -> None:
        self.take(self.scheduler.eject(model, self.now, force=force))

    def reset(self, model: str) -> None:
        self.take(self.scheduler.reset(model, self.now))

    def configure(self, *models: ModelSpec, policy: Policy | None = None, changed: Collection[str] = ()) -> None:
        """A new configuration with these models; the others have left it."""
        self.specs = {spec.name: spec for spec in models}
        self.take(self.scheduler.configure(policy or Policy(), models, self.now, changed=changed))

    def serve(self, model: str) -> TicketId:
        """Bring a cold model to READY with one request running on it."""
        ticket = self.ask(model)
        self.ready(model)
        assert ticket in self.granted
        return ticket

    def rest(self, model: str) -> None:
        """Bring a cold model to READY and idle."""
        self.end(self.serve(model))

    def sleep(self, seconds: float) -> None:
        """Let time pass; the scheduler is woken whenever it has asked for it."""
        until = self.now + seconds
        while self.wake is not None and self.wake <= until:
            self.now, self.wake = max(self.now, self.wake), None
            self.take(self.scheduler.tick(self.now))
        self.now = until

    def status(self, model: str) -> Status:
        return self.scheduler.view(model, self.now).status

    def statuses(self) -> Mapping[str, Status]:
        return {name: self.status(name) for name in self.specs}

    def starts(self) -> list[str]:
        return [start.model for start in self.started]

    def take(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Grant():
                    assert command.ticket not in self.granted, "granted twice"
                    assert command.ticket not in self.rejected, "granted after a rejection"
                    self.granted[command.ticket] = command
                case Reject():
                    assert command.ticket not in self.granted, "rejected after a grant"
                    assert command.ticket not in self.rejected, "rejected twice"
                    self.rejected[command.ticket] = command
                case Start():
                    self.started.append(command)
                case Stop():
                    self.stopped.append(command)
                case Evicted():
                    self.evicted.append(command)
                case Recycled(model, held):
                    self.recycled.append((model, held))
                case WakeAt(at):
                    self.wake = at if self.wake is None else min(self.wake, at)
                case _:
                    pass
