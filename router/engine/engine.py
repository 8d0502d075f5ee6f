"""Drives the scheduler: the one writer of its state, and the owner of its children.

Everything here runs on one event loop. An event is handed to the scheduler and its commands are carried out in the same
synchronous step, so a request that finds a free slot is granted without a suspension and without a lock.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from router.core.admission import SHUTTING_DOWN
from router.core.affinity import Marks
from router.core.commands import Changed, Command, Evicted, Grant, Recycled, Reject, Start, Stop, WakeAt
from router.core.scheduler import Scheduler
from router.core.types import (
    DeviceView,
    LinePlace,
    ModelSpec,
    ModelView,
    Policy,
    Priority,
    ReplicaId,
    Status,
    Ticket,
    TicketId,
)
from router.engine.alarm import Alarm
from router.engine.children import Children, Observation
from router.engine.chronicle import Chronicle
from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.news import News
from router.engine.ports import ChildExit, ConversationEvent, DeviceMonitor, Launcher, LoadProgress, Observer, Upstream
from router.engine.read_ahead import ReadAhead, spare_ram
from router.engine.refusal import error_of, not_coming
from router.engine.supervisor import Supervisor
from router.engine.turn import Turn
from router.engine.waiting_room import WaitingRoom
from router.errors import ModelEjected, ModelFailed, ModelTooLarge, QueueTimeout, ShuttingDown

_CLOSING_GRACE = 0.4  # for a child that is idle as the router ends: it has nothing left to do
_SERVING = (Status.READY, Status.DRAINING)


class Engine:
    """Models, their queues and their replicas, behind a handful of calls.

    Use `start` once on a running loop and `close` at the end; in between every method may be called from tasks of that
    loop only.
    """

    def __init__(
        self,
        *,
        models: Iterable[ModelSpec],
        policy: Policy,
        limits: Limits,
        launcher: Launcher,
        monitor: DeviceMonitor,
        observer: Observer,
    ) -> None:
        specs = tuple(models)
        self.names = tuple(spec.name for spec in specs)
        self.accepting = False
        self._limits = limits
        self._launcher = launcher
        self._tell_grant = observer.granted
        self._chronicle = Chronicle(observer)
        self._scheduler = Scheduler(policy, specs, monitor.devices)
        self._ids = itertools.count(1)
        self._waiting = WaitingRoom(
            left=lambda ticket: self._apply(self._scheduler.cancel(ticket, self.clock())),
            unused=lambda lease: self._released(lease, finished=True),
        )
        self._ahead = ReadAhead(launcher, lambda: spare_ram(self.devices()))
        self._children = Children(launcher=launcher, monitor=monitor, limits=limits, events=self)
        self._supervisors: Mapping[ReplicaId, Supervisor] = self._children.supervisors  # each request looks there
        self._alarm = Alarm(lambda: self._apply(self._scheduler.tick(self.clock())))
        self._news = News()
        self._commands: deque[Command] = deque()
        self._applying = False

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the devices once and take work from now on."""
        await self._children.observe()
        self.accepting = True

    def begin_close(self) -> None:
        """Turn waiters away and take no new work; what runs runs on. Idempotent."""
        self.accepting = False
        self._apply(self._scheduler.close(self.clock()))

    def abort_all(self) -> None:
        """End everything that still runs; its clients are told."""
        self._children.abort_leases(ShuttingDown(SHUTTING_DOWN))

    def hurry(self) -> None:
        """Leave nobody any time: what runs is ended, and children are killed."""
        self.begin_close()
        self.abort_all()
        self._children.finish(grace=0.0)

    async def close(self) -> None:
        """End every child. Whoever waits or runs until now is told; waiting for them first is the caller's."""
        self.begin_close()
        self.abort_all()
        self._children.finish(grace=_CLOSING_GRACE)
        await self._children.close()
        await self._ahead.close()
        self._alarm.cancel()
        await self._launcher.close()

    # Seconds of the monotonic clock that all views use.
    clock = staticmethod(time.monotonic)

    # -- requests ----------------------------------------------------------------------------------------------------

    def turn(
        self, model: str, priority: Priority, *, width: int = 1, marks: Marks = (), timeout: float | None = None
    ) -> Turn:
        """A request's standing with the queue of `model` (canonical name), from now on.

        Args:
            width: slots it takes; all of them if the model has fewer.
            marks: of the beginnings of its text, by which it finds the replica that knows them.
            timeout: longest wait for slots in seconds; never above the configured queue timeout.
        """
        now = self.clock()
        wait = self._limits.queue_timeout if timeout is None else min(timeout, self._limits.queue_timeout)
        return Turn(self, self._ids, model, priority, width=width, marks=marks, arrived=now, deadline=now + wait)

    async def lease(self, model: str, priority: Priority, *, timeout: float | None = None) -> Lease:
        """One slot for a request that does not ask again, see `Turn.lease`."""
        return await self.turn(model, priority, timeout=timeout).lease()

    async def wait_gone(self, model: str, replica: ReplicaId, *, timeout: float) -> bool:
        """Wait until a replica is known to serve no more; False when it still does after `timeout` seconds."""
        return await self._news.until(lambda: replica not in self._serving(model), timeout=timeout)

    # `engine.turn.Desk`

    def enter(self, ticket: Ticket) -> None:
        self._waiting.enter(ticket)
        self._apply(self._scheduler.submit(ticket, self.clock()))

    def ask(self, ticket: Ticket) -> Lease | None:
        commands = self._scheduler.submit(ticket, self.clock())
        if len(commands) == 1 and isinstance(grant := commands[0], Grant) and grant.ticket == ticket.id:
            return self._leased(grant, ticket)
        self._waiting.enter(ticket)
        self._apply(commands)
        return None

    async def answer(self, ticket: TicketId) -> Lease:
        lease = self._waiting.settled(ticket)
        return await self._waiting.answer(ticket) if lease is None else lease

    def leave(self, ticket: TicketId) -> None:
        self._waiting.leave(ticket)

    def place(self, ticket: TicketId) -> LinePlace | None:
        """Where a ticket stands (`engine.turn.Desk`)."""
        return self._scheduler.place(ticket, self.clock())

    # -- operators ---------------------------------------------------------------------------------------------------

    def load(self, model: str, *, evict: bool = True) -> None:
        """Start loading a model though nobody waits; idempotent. Raises ModelFailed, ModelTooLarge, ShuttingDown.

        A model that needs the room of busy ones is loaded once they have ended.
        """
        if not self.accepting:
            raise ShuttingDown(SHUTTING_DOWN, retry_after=5)
        view = self.view(model)
        if view.status is Status.FAILED and view.retry_at is None and not view.misfit:
            raise ModelFailed(f"Model '{model}' has failed and waits for a reset: {view.reason}")
        self._apply(self._scheduler.load(model, self.clock(), evict=evict))
        view = self.view(model)
        if evict and view.misfit:
            raise ModelTooLarge(f"Model '{model}' {view.reason}")

    async def wait_ready(self, model: str, *, timeout: float) -> None:
        """Wait until a model that is loading is ready. Raises QueueTimeout, and what `not_coming` tells."""

        def is_ready() -> bool:
            view = self.view(model)
            if (error := not_coming(view)) is not None:
                raise error
            return view.status is Status.READY

        if not await self._news.until(is_ready, timeout=timeout):
            message = f"Model '{model}' is not ready after {timeout:g} s; the load goes on."
            raise QueueTimeout(message, retry_after=self.view(model).expected_wait)

    async def eject(self, model: str, *, force: bool) -> None:
        """Unload a model and wait until it is out of memory; leases run to their end first, unless `force`.

        Returns as well when somebody has it loaded again before they have ended.
        """
        replicas = {one.id for one in self.view(model).replicas}
        if force:
            self._children.abort_leases(ModelEjected(f"Model '{model}' was ejected by an operator."), of=replicas)
        self._apply(self._scheduler.eject(model, self.clock(), force=force))
        await self._news.until(
            lambda: all(one.status is Status.READY for one in self.view(model).replicas if one.id in replicas)
        )

    def reset(self, model: str) -> None:
        """Forget a model's failures."""
        self._apply(self._scheduler.reset(model, self.clock()))

    def configure(
        self, *, models: Iterable[ModelSpec], policy: Policy, limits: Limits, changed: Collection[str] = ()
    ) -> None:
        """Go by another configuration from now on, see `Scheduler.configure`. Models that left it are views for as
        long as they hold memory, and no names any more."""
        specs = tuple(models)
        self.names = tuple(spec.name for spec in specs)
        self._limits = limits
        self._children.adopt(limits)
        self._apply(self._scheduler.configure(policy, specs, self.clock(), changed=changed))

    # -- views -------------------------------------------------------------------------------------------------------

    def upstream(self, model: str) -> Upstream | None:
        """Where a ready model listens, its oldest replica of several, for control calls that take no slot."""
        child = self._children.child(next(iter(self._serving(model)), None))
        return None if child is None else child.upstream

    def _serving(self, model: str) -> tuple[ReplicaId, ...]:
        return tuple(one.id for one in self.view(model).replicas if one.status in _SERVING)

    def view(self, model: str) -> ModelView:
        """A model as it is now. Raises KeyError for a name that never was one."""
        return self._scheduler.view(model, self.clock())

    def views(self) -> tuple[ModelView, ...]:
        """All models, and those that left the configuration and still hold memory."""
        return self._scheduler.views((*self.names, *self._scheduler.former()), self.clock())

    def troubles(self) -> tuple[str, ...]:
        """Why the scheduler does not keep its word, each in half a sentence; empty when it does."""
        return self._scheduler.troubles(self._limits.patience(), self._children.leases(), self.clock())

    def devices(self) -> tuple[DeviceView, ...]:
        """The memories as they were last seen, and what is booked on them."""
        return self._scheduler.devices()

    def port(self, replica: ReplicaId) -> int | None:
        """Where a replica listens; None when it has no process (any more)."""
        child = self._children.child(replica)
        return None if child is None else child.port

    def pid(self, replica: ReplicaId) -> int | None:
        """A replica's process; None when it has none (any more)."""
        child = self._children.child(replica)
        return None if child is None else child.pid

    def tail(self, model: str, lines: int = 20) -> str:
        """The last lines of the log of a model's child, or of its last one; empty when it has had none."""
        return self._children.tail(model, self.view(model).replica, lines)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _apply(self, commands: Iterable[Command]) -> None:
        """Carry commands out in order; those that come of carrying out one wait for their turn."""
        self._commands.extend(commands)
        if self._applying or not self._commands:
            return
        self._applying = True
        try:
            while self._commands:
                self._carry_out(self._commands.popleft())
        finally:
            self._applying = False

    def _carry_out(self, command: Command) -> None:
        match command:
            case Grant():
                ticket = self._waiting.ticket(command.ticket)
                self._waiting.settle(command.ticket, self._leased(command, ticket))
            case Reject():
                self._waiting.settle(command.ticket, error_of(command))
            case Start():
                self._on_start(command)
            case Stop():
                keep = self.accepting and command.keep and not command.force
                self._supervisors[command.replica].stop(force=command.force, keep=keep)
            case WakeAt(at):
                self._alarm.set(at)
            case Changed(model):
                self._on_changed(model)
            case Evicted():
                self._chronicle.evicted(command)
                self._ahead.begin(command.for_model)
            case Recycled():
                self._chronicle.recycled(command)

    def _leased(self, command: Grant, ticket: Ticket) -> Lease:
        supervisor = self._supervisors[command.replica]
        if supervisor.child is None or supervisor.watch is None:
            raise AssertionError("a replica without a child was granted")
        now = self.clock()
        lease = Lease(
            lease_id=command.lease,
            model=command.model,
            replica=command.replica,
            upstream=supervisor.child.upstream,
            granted_at=now,
            release=self._released,
            width=1 if ticket.width == 1 else min(ticket.width, self._scheduler.replicas[command.replica].slots),
        )
        supervisor.watch.add(lease)
        self._tell_grant(command.model, ticket.priority, now - ticket.arrived)
        return lease

    def _on_start(self, command: Start) -> None:
        self._ahead.end(command.model)
        self._chronicle.loading(command, self.clock())
        self._children.start(command)

    def _on_changed(self, model: str) -> None:
        view = self.view(model)
        if view.status is not Status.LOADING:
            self._ahead.end(model)
        self._chronicle.changed(view)
        self._news.spread()

    # -- events of supervisors and leases ----------------------------------------------------------------------------

    def load_progressed(self, supervisor: Supervisor, progress: LoadProgress) -> None:
        if progress.projected is not None:
            self._apply(self._scheduler.replica_projected(supervisor.replica, *progress.projected, self.clock()))
        if progress.allocated:
            self._apply(self._scheduler.replica_allocated(supervisor.replica, self.clock()))

    def replica_ready(self, supervisor: Supervisor, slots: int) -> None:
        now = self.clock()
        self._chronicle.ready(supervisor, slots, now)
        self._apply(
            self._scheduler.replica_ready(
                supervisor.replica,
                slots,
                now,
                readings=supervisor.readings,
                usage=supervisor.held,
                peak=supervisor.peak,
                cut=supervisor.progress.cut,
            )
        )

    def replica_exited(self, supervisor: Supervisor, ended: ChildExit) -> None:
        now = self.clock()
        before = self.view(supervisor.model)
        self._children.keep_last_words(supervisor)
        self._apply(
            self._scheduler.replica_exited(
                supervisor.replica,
                ended.reason,
                now,
                timed_out=ended.passing,
                exhausted=ended.exhausted,
                peak=supervisor.peak,
            )
        )
        self._chronicle.ended(supervisor, ended, before=before, after=self.view(supervisor.model), now=now)

    def replica_reclaimed(self, supervisor: Supervisor) -> None:
        self._children.forget(supervisor)
        now = self.clock()
        self._apply(self._scheduler.replica_reclaimed(supervisor.replica, now, readings=supervisor.readings))

    def conversations(self, supervisor: Supervisor, event: ConversationEvent, count: int, seconds: float) -> None:
        self._chronicle.conversations(supervisor, event, count, seconds)

    def memory_observed(self, seen: Observation) -> None:
        self._apply(self._scheduler.memory_observed(seen.readings, seen.usage, self.clock(), peaks=seen.peaks))

    def lease_ended(self, lease: Lease) -> None:
        """An abandoned lease's slot has become idle."""
        self._apply(self._scheduler.end(lease.id, self.clock()))

    def _released(self, lease: Lease, finished: bool) -> None:
        supervisor = self._supervisors.get(lease.replica)
        if supervisor is None or supervisor.watch is None:
            return
        if finished:
            supervisor.watch.finish(lease)
            self._apply(self._scheduler.end(lease.id, self.clock()))
        else:
            supervisor.watch.abandon(lease)
