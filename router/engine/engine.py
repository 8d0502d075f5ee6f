"""Drives the scheduler: the one writer of its state, and the owner of every supervisor.

Everything here runs on one event loop. An event is handed to the scheduler and its commands are carried out in the same
synchronous step, so a request that finds a free slot is granted without a suspension and without a lock.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Collection, Iterable

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
from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.ports import (
    Child,
    ChildExit,
    ConversationEvent,
    DeviceMonitor,
    Launcher,
    LoadProgress,
    Observer,
    Upstream,
)
from router.engine.read_ahead import ReadAhead, spare_ram
from router.engine.refusal import error_of
from router.engine.supervisor import Supervisor
from router.engine.turn import Turn
from router.engine.waiting_room import WaitingRoom
from router.errors import (
    ModelEjected,
    ModelFailed,
    ModelTooLarge,
    QueueTimeout,
    ShuttingDown,
)

_log = logging.getLogger(__name__)
_TIMER_SLACK = 0.002
_CLOSING_GRACE = 0.4  # for a child that is idle as the router ends: it has nothing left to do
_LAST_WORDS = 100  # lines of a dead child's log
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
        self._monitor = monitor
        self._observer = observer
        self._scheduler = Scheduler(policy, specs, monitor.devices)
        self._ids = itertools.count(1)
        self._waiting = WaitingRoom(
            left=lambda ticket: self._apply(self._scheduler.cancel(ticket, self.clock())),
            unused=lambda lease: self._released(lease, finished=True),
        )
        self._ahead = ReadAhead(launcher, lambda: spare_ram(self.devices()))
        self._supervisors: dict[ReplicaId, Supervisor] = {}
        self._supervised: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._statuses: dict[str, Status] = {}  # as last told; off where nothing has been
        self._load_started: dict[ReplicaId, float] = {}
        self._last_words: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._news = asyncio.Event()
        self._commands: deque[Command] = deque()
        self._applying = False

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the devices once and take work from now on."""
        await self._observe()
        self._background.add(asyncio.create_task(self._observe_forever(), name="observe memory"))
        self.accepting = True

    def begin_close(self) -> None:
        """Turn waiters away and take no new work; what runs runs on. Idempotent."""
        self.accepting = False
        self._apply(self._scheduler.close(self.clock()))

    def abort_all(self) -> None:
        """End everything that still runs; its clients are told."""
        for supervisor in self._supervisors.values():
            supervisor.abort_leases(ShuttingDown(SHUTTING_DOWN))

    def hurry(self) -> None:
        """Leave nobody any time: what runs is ended, and children are killed."""
        self.begin_close()
        self.abort_all()
        for supervisor in self._supervisors.values():
            supervisor.finish(grace=0.0)

    async def close(self) -> None:
        """End every child. Whoever waits or runs until now is told; waiting for them first is the caller's."""
        self.begin_close()
        self.abort_all()
        for supervisor in list(self._supervisors.values()):
            supervisor.finish(grace=_CLOSING_GRACE)
        if self._supervised:
            await asyncio.wait(self._supervised, timeout=self._limits.stop_grace + self._limits.reclaim_timeout)
        for task in (*self._supervised, *self._background):
            task.cancel()
        await asyncio.gather(*self._supervised, *self._background, return_exceptions=True)
        await self._ahead.close()
        if self._timer is not None:
            self._timer.cancel()
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
        try:
            async with asyncio.timeout(timeout):
                while any(one.id == replica and one.status in _SERVING for one in self.view(model).replicas):
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

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
        """Wait until a model that is loading is ready. Raises ModelFailed, QueueTimeout."""
        try:
            async with asyncio.timeout(timeout):
                while (view := self.view(model)).status is not Status.READY:
                    if view.status is Status.FAILED:
                        raise (ModelTooLarge if view.misfit else ModelFailed)(f"Model '{model}' {view.reason}")
                    if view.status is Status.OFF:
                        raise ModelEjected(f"Model '{model}' {view.reason or 'was unloaded meanwhile'}.")
                    await self._news.wait()
        except TimeoutError:
            message = f"Model '{model}' is not ready after {timeout:g} s; the load goes on."
            raise QueueTimeout(message, retry_after=self.view(model).expected_wait) from None

    async def eject(self, model: str, *, force: bool) -> None:
        """Unload a model and wait until it is out of memory; leases run to their end first, unless `force`.

        Returns as well when somebody has it loaded again before they have ended.
        """
        replicas = {one.id for one in self.view(model).replicas}
        for supervisor in (self._supervisors[replica] for replica in replicas & self._supervisors.keys()):
            if force:
                supervisor.abort_leases(ModelEjected(f"Model '{model}' was ejected by an operator."))
        self._apply(self._scheduler.eject(model, self.clock(), force=force))
        while any(one.id in replicas and one.status is not Status.READY for one in self.view(model).replicas):
            await self._news.wait()

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
        for supervisor in self._supervisors.values():
            supervisor.adopt(limits)
        self._apply(self._scheduler.configure(policy, specs, self.clock(), changed=changed))

    # -- views -------------------------------------------------------------------------------------------------------

    def upstream(self, model: str) -> Upstream | None:
        """Where a ready model listens, its oldest replica of several, for control calls that take no slot."""
        serving = (one.id for one in self.view(model).replicas if one.status in _SERVING)
        child = self._child(next(serving, None))
        return None if child is None else child.upstream

    def view(self, model: str) -> ModelView:
        return self._scheduler.view(model, self.clock())

    def views(self) -> tuple[ModelView, ...]:
        return self._scheduler.views((*self.names, *self._scheduler.former()), self.clock())

    def troubles(self) -> tuple[str, ...]:
        """Why the scheduler does not keep its word, each in half a sentence; empty when it does."""
        watches = {replica: found.watch for replica, found in self._supervisors.items()}
        held = {replica: watch.held for replica, watch in watches.items() if watch is not None}
        return self._scheduler.troubles(self._limits.patience(), held, self.clock())

    def devices(self) -> tuple[DeviceView, ...]:
        return self._scheduler.devices()

    def port(self, replica: ReplicaId) -> int | None:
        """Where a replica listens; None when it has no process (any more)."""
        child = self._child(replica)
        return None if child is None else child.port

    def pid(self, replica: ReplicaId) -> int | None:
        """A replica's process; None when it has none (any more)."""
        child = self._child(replica)
        return None if child is None else child.pid

    def tail(self, model: str, lines: int = 20) -> str:
        """The last lines of the log of a model's child, or of its last one; empty when it has had none."""
        child = self._child(self.view(model).replica)
        if child is not None:
            return child.tail(lines)
        return "\n".join(self._last_words.get(model, "").splitlines()[-lines:])

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
                self._on_grant(command)
            case Reject():
                self._on_reject(command)
            case Start():
                self._on_start(command)
            case Stop():
                keep = self.accepting and command.keep and not command.force
                self._supervisors[command.replica].stop(force=command.force, keep=keep)
            case WakeAt(at):
                self._wake_at(at)
            case Changed(model):
                self._on_changed(model)
            case Evicted(model, for_model):
                _log.info("%s makes room for %s", model, for_model)
                self._observer.evicted(model, for_model)
                self._ahead.begin(for_model)
            case Recycled(model, held):
                _log.warning("%s is idle and holds %d MiB of RAM, more than max_rss_mb: it is started anew", model,
                             held // 1024**2)  # fmt: skip
                self._observer.recycled(model, held)

    def _on_grant(self, command: Grant) -> None:
        ticket = self._waiting.ticket(command.ticket)
        self._waiting.settle(command.ticket, self._leased(command, ticket))

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
        self._observer.granted(command.model, ticket.priority, now - ticket.arrived)
        return lease

    def _on_reject(self, command: Reject) -> None:
        self._waiting.settle(command.ticket, error_of(command))

    def _on_start(self, command: Start) -> None:
        self._ahead.end(command.model)
        supervisor = Supervisor(
            model=command.model,
            replica=command.replica,
            placement=command.placement,
            launcher=self._launcher,
            monitor=self._monitor,
            limits=self._limits,
            events=self,
        )
        self._supervisors[command.replica] = supervisor
        self._load_started[command.replica] = self.clock()
        _log.info("loading %s (replica %d) on %s", command.model, command.replica, ", ".join(command.placement.bytes))
        task = asyncio.create_task(supervisor.run(), name=f"replica {command.replica} of {command.model}")
        self._supervised.add(task)
        task.add_done_callback(self._supervised.discard)

    def _on_changed(self, model: str) -> None:
        view = self.view(model)
        previous, self._statuses[model] = self._statuses.get(model, Status.OFF), view.status
        if view.status is not Status.LOADING:
            self._ahead.end(model)
        self._observer.model_changed(view, previous)
        self._news.set()
        self._news = asyncio.Event()

    def _wake_at(self, at: float) -> None:
        """Have a tick at this time, unless an earlier one is due."""
        if self._timer is not None and self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # The loop's clock may be coarser than ours: never a tick too early.
        delay = max(0.0, at - self.clock()) + _TIMER_SLACK
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._apply(self._scheduler.tick(self.clock()))

    # -- events of supervisors and leases ----------------------------------------------------------------------------

    def load_progressed(self, supervisor: Supervisor, progress: LoadProgress) -> None:
        if progress.projected is not None:
            self._apply(self._scheduler.replica_projected(supervisor.replica, *progress.projected, self.clock()))
        if progress.allocated:
            self._apply(self._scheduler.replica_allocated(supervisor.replica, self.clock()))

    def replica_ready(self, supervisor: Supervisor, slots: int) -> None:
        now = self.clock()
        seconds = now - self._load_started.pop(supervisor.replica, now)
        _log.info("%s is ready after %.2f s: %d slot(s)", supervisor.model, seconds, slots)
        self._observer.load_finished(supervisor.model, seconds, ok=True)
        self._observer.load_phases(supervisor.model, supervisor.phases)
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
        status = next((one.status for one in before.replicas if one.id == supervisor.replica), Status.OFF)
        if supervisor.child is not None:
            self._last_words[supervisor.model] = supervisor.child.tail(_LAST_WORDS)
        started = self._load_started.pop(supervisor.replica, None)
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
        after = self.view(supervisor.model)
        expected = status in (Status.STOPPING, Status.DRAINING)
        # One that is tried again with more memory has not failed yet; beside others there is no second try.
        if started is not None and not expected and (after.status is Status.FAILED or len(before.replicas) > 1):
            self._observer.load_finished(supervisor.model, now - started, ok=False)
        if after.restarts > before.restarts:
            self._observer.restarted(supervisor.model)
        _log.log(logging.INFO if expected else logging.ERROR, "%s ended: %s", supervisor.model, ended.reason)

    def replica_reclaimed(self, supervisor: Supervisor) -> None:
        self._supervisors.pop(supervisor.replica, None)
        now = self.clock()
        self._apply(self._scheduler.replica_reclaimed(supervisor.replica, now, readings=supervisor.readings))

    def conversations(self, supervisor: Supervisor, event: ConversationEvent, count: int, seconds: float) -> None:
        if count:
            _log.info("%s: %d conversation(s) %s in %.0f ms", supervisor.model, count, event, seconds * 1000)
            self._observer.conversations(supervisor.model, event, count)

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

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def _observe_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.observe_interval)
            await self._observe()

    async def _observe(self) -> None:
        readings = await self._monitor.read()
        supervisors = list(self._supervisors.values())
        usage = {supervisor.replica: await supervisor.observe(readings) for supervisor in supervisors}
        peaks = {supervisor.replica: supervisor.peak for supervisor in supervisors}
        self._apply(self._scheduler.memory_observed(readings, usage, self.clock(), peaks=peaks))

    def _child(self, replica: ReplicaId | None) -> Child | None:
        supervisor = None if replica is None else self._supervisors.get(replica)
        return None if supervisor is None else supervisor.child
