"""The real scheduler under a virtual clock, with children that do what a controllable llama-server does."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.traces import LOAD_SEC, SECONDS, Ask, Loop, Outcome, Trace, Wait
from router.core.commands import Command, Evicted, Grant, Reject, Start, Stop, WakeAt
from router.core.scheduler import Scheduler
from router.core.types import (
    HOST,
    Device,
    DeviceKind,
    LeaseId,
    ModelSpec,
    Need,
    Policy,
    ReplicaId,
    Ticket,
    TicketId,
)

_GIB = 1024**3
STOP_SEC = 0.01  # TERM to a process of this size, and its end


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request without a slot; `done` hears whether it was answered."""

    ticket: Ticket
    ask: Ask
    done: Callable[[bool], None]


class World:
    """A scheduler, the time, and what is going to happen.

    Args:
        load: seconds that a model takes from its start to READY.
        stop: seconds that a child takes to end.
        witness: shown every command before it is carried out.
    """

    def __init__(
        self,
        models: Iterable[ModelSpec],
        *,
        policy: Policy,
        devices: Iterable[Device],
        load: Callable[[str], float] = lambda _: LOAD_SEC,
        stop: float = STOP_SEC,
        witness: Callable[[Command], None] = lambda _: None,
    ) -> None:
        models = tuple(models)
        self.now = 0.0
        self.waiting: dict[TicketId, Waiting] = {}
        self.scheduler = Scheduler(policy, models, devices)
        self.evicted: list[tuple[float, Evicted]] = []
        self._slots = {spec.name: spec.slots for spec in models}
        self._load, self._stop, self._witness = load, stop, witness
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._pushed = 0
        self._tickets = 0
        self._running: dict[LeaseId, ReplicaId] = {}
        self._wake: float | None = None

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have something happen at a time; what is due at the same time happens in the order in which it was said."""
        self._pushed += 1
        heapq.heappush(self._events, (time, self._pushed, action))

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        while self._events and self._events[0][0] <= until:
            self.step()
        self.now = max(self.now, until)

    def step(self) -> bool:
        """Let the next thing happen; False when there is none."""
        if not self._events:
            return False
        self.now, _, action = heapq.heappop(self._events)
        action()
        return True

    def ask(self, ask: Ask, done: Callable[[bool], None], *, patience: float = 3600.0) -> TicketId:
        """A request comes now; `done` hears whether it was answered."""
        self._tickets += 1
        ticket = Ticket(self._tickets, ask.model, ask.priority, self.now, self.now + patience, width=ask.width)
        self.waiting[ticket.id] = Waiting(ticket, ask, done)
        self._take(self.scheduler.submit(ticket, self.now))
        return ticket.id

    def leave(self, ticket: TicketId) -> bool:
        """Its client goes away; False when it does not wait any more."""
        if self.waiting.pop(ticket, None) is None:
            return False
        self._take(self.scheduler.cancel(ticket, self.now))
        return True

    def _take(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self._witness(command)
            match command:
                case Grant():
                    self._granted(command)
                case Reject(ticket):
                    self.waiting.pop(ticket).done(False)
                case Start(_, model):
                    self.at(self.now + self._load(model), lambda start=command: self._ready(start))  # type: ignore[misc]
                case Stop(replica):
                    self.at(self.now + self._stop, lambda replica=replica: self._exited(replica))  # type: ignore[misc]
                case Evicted():
                    self.evicted.append((self.now, command))
                case WakeAt(at):
                    self._wake_at(at)
                case _:
                    pass

    def _granted(self, grant: Grant) -> None:
        waiting = self.waiting.pop(grant.ticket)
        self._running[grant.lease] = grant.replica

        def end() -> None:
            del self._running[grant.lease]
            self._take(self.scheduler.end(grant.lease, self.now))
            waiting.done(True)

        self.at(self.now + waiting.ask.seconds, end)

    def _ready(self, start: Start) -> None:
        slots = self._slots[start.model]
        self._take(self.scheduler.replica_ready(start.replica, slots, self.now, readings=(), usage={}))

    def _exited(self, replica: ReplicaId) -> None:
        if replica in self._running.values():
            raise AssertionError(f"replica {replica} was stopped in the middle of a generation")
        self._take(self.scheduler.replica_exited(replica, "stopped", self.now))
        self._take(self.scheduler.replica_reclaimed(replica, self.now, readings=()))

    def _wake_at(self, at: float) -> None:
        if self._wake is not None and self.now < self._wake <= at:
            return
        self._wake = at
        self.at(at, lambda: self._tick(at))

    def _tick(self, at: float) -> None:
        if self._wake == at:
            self._wake = None
            self._take(self.scheduler.tick(self.now))


AnyWorld = TypeVar("AnyWorld", bound=World)


@dataclass(slots=True)
class _Audience:
    """The clients of a trace, and how long each of their requests has waited."""

    world: World
    seconds: float
    waits: list[Wait] = field(default_factory=list)
    waiting: dict[int, tuple[Ask, float]] = field(default_factory=dict)
    asked: int = 0

    def ask(self, ask: Ask, then: Callable[[], None] = lambda: None) -> None:
        world, since = self.world, self.world.now
        self.asked += 1
        number = self.asked
        self.waiting[number] = (ask, since)

        def done(answered: bool) -> None:
            del self.waiting[number]
            self.waits.append(Wait(ask.label, world.now - since, answered))
            then()

        world.ask(ask, done)

    def follow(self, loop: Loop, step: int = 0) -> None:
        def think() -> None:
            self.world.at(self.world.now + loop.think, lambda: self.follow(loop, step + 1))

        self.ask(loop.asks[step % len(loop.asks)], think)


def room_for_one(models: Iterable[str], policy: Policy, kind: type[AnyWorld]) -> AnyWorld:
    """Models of which only one fits into memory."""
    device = Device(HOST, DeviceKind.HOST, None, "RAM", 10 * _GIB, 10 * _GIB)
    return kind([ModelSpec(name, 1, Need(0, 6 * _GIB)) for name in models], policy=policy, devices=[device])


def simulate(trace: Trace, policy: Policy | None = None, *, world: World | None = None) -> Outcome:
    """Play a trace in a world, by default in one with room for one model."""
    world = world or room_for_one(trace.models, policy or Policy(), World)
    audience = _Audience(world, SECONDS)
    for loop in trace.loops:
        world.at(0.0, lambda loop=loop: audience.follow(loop))  # type: ignore[misc]
    for at, ask in trace.arrivals:
        world.at(at, lambda ask=ask: audience.ask(ask))  # type: ignore[misc]
    end = SECONDS
    world.run(end)
    while trace.to_the_end and audience.waiting and end < 20 * SECONDS:
        end += 1.0
        world.run(end)
    cut = [Wait(ask.label, world.now - since, answered=False) for ask, since in audience.waiting.values()]
    return Outcome((*audience.waits, *cut), len(world.evicted))
