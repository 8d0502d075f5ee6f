"""The children of all replicas: the supervisor of each, and the task that runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from router.core.commands import Start
from router.core.types import DeviceId, DeviceReading, LeaseId, ReplicaId
from router.engine.limits import Limits
from router.engine.ports import Child, DeviceMonitor, Launcher
from router.engine.supervisor import Supervisor, SupervisorEvents
from router.errors import RouterError

_log = logging.getLogger(__name__)

_LAST_WORDS = 100  # lines of a dead child's log


@dataclass(frozen=True, slots=True)
class Observation:
    """The devices, and what each replica holds and has held at most, in bytes."""

    readings: tuple[DeviceReading, ...]
    usage: Mapping[ReplicaId, Mapping[DeviceId, int]]
    peaks: Mapping[ReplicaId, Mapping[DeviceId, int]]


class ChildrenEvents(SupervisorEvents, Protocol):
    """What the children report; implemented by the engine."""

    def memory_observed(self, seen: Observation) -> None: ...


class Children:
    """Owns the supervisors, from the command to start one to the return of its memory, and awaits their tasks.

    Args:
        events: calls `forget` when a supervisor has told its last.

    Attributes:
        supervisors: by replica. Changed here alone.
    """

    def __init__(self, *, launcher: Launcher, monitor: DeviceMonitor, limits: Limits, events: ChildrenEvents) -> None:
        self.supervisors: dict[ReplicaId, Supervisor] = {}
        self._launcher = launcher
        self._monitor = monitor
        self._limits = limits
        self._events = events
        self._running: set[asyncio.Task[None]] = set()
        self._observing: tuple[asyncio.Task[None], ...] = ()
        self._last_words: dict[str, str] = {}

    def start(self, command: Start) -> None:
        """Have a child started, and looked after from then on."""
        supervisor = Supervisor(
            model=command.model,
            replica=command.replica,
            placement=command.placement,
            launcher=self._launcher,
            monitor=self._monitor,
            limits=self._limits,
            events=self._events,
        )
        self.supervisors[command.replica] = supervisor
        task = asyncio.create_task(supervisor.run(), name=f"replica {command.replica} of {command.model}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def forget(self, supervisor: Supervisor) -> None:
        """Its child is gone, and the memory too."""
        self.supervisors.pop(supervisor.replica, None)

    def adopt(self, limits: Limits) -> None:
        """Keep these deadlines from now on."""
        self._limits = limits
        for supervisor in self.supervisors.values():
            supervisor.adopt(limits)

    def abort_leases(self, error: RouterError, *, of: Collection[ReplicaId] | None = None) -> None:
        """End what runs on these replicas, or on all of them."""
        for replica, supervisor in self.supervisors.items():
            if of is None or replica in of:
                supervisor.abort_leases(error)

    def finish(self, *, grace: float) -> None:
        """End all children as the router ends, no later than `grace` seconds from now."""
        for supervisor in self.supervisors.values():
            supervisor.finish(grace=grace)

    async def close(self) -> None:
        """Wait until all children, which have been told to finish, have ended; at the latest until they must have."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._limits.stop_grace + self._limits.reclaim_timeout)
        for task in (*self._running, *self._observing):
            task.cancel()
        await asyncio.gather(*self._running, *self._observing, return_exceptions=True)

    async def observe(self) -> None:
        """Look at the memory of all of them now, and again and again until the end."""
        await self.look()
        self._observing = (asyncio.create_task(self._observe_forever(), name="observe memory"),)

    async def _observe_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.observe_interval)
            try:
                await self.look()
            except Exception:  # noqa: BLE001  a bug must not end all later looks, of which nobody would hear
                _log.exception("the memory of the models was not looked at")

    async def look(self) -> None:
        """Look at the memory of all of them, and report it."""
        readings = await self._monitor.read()
        supervisors = list(self.supervisors.values())
        usage = {supervisor.replica: await supervisor.observe(readings) for supervisor in supervisors}
        peaks = {supervisor.replica: supervisor.peak for supervisor in supervisors}
        self._events.memory_observed(Observation(readings, usage, peaks))

    def child(self, replica: ReplicaId | None) -> Child | None:
        """A replica's child; None when it has none (any more)."""
        supervisor = None if replica is None else self.supervisors.get(replica)
        return None if supervisor is None else supervisor.child

    def leases(self) -> Mapping[ReplicaId, Collection[LeaseId]]:
        """Those that somebody still works for, of each replica that serves."""
        watches = {replica: supervisor.watch for replica, supervisor in self.supervisors.items()}
        return {replica: watch.held for replica, watch in watches.items() if watch is not None}

    def keep_last_words(self, supervisor: Supervisor) -> None:
        """Of a child that has ended, for `tail`."""
        if supervisor.child is not None:
            self._last_words[supervisor.model] = supervisor.child.tail(_LAST_WORDS)

    def tail(self, model: str, replica: ReplicaId | None, lines: int) -> str:
        """The last lines of the log of this child of the model, or of its last one; empty when it has had none."""
        child = self.child(replica)
        if child is not None:
            return child.tail(lines)
        return "\n".join(self._last_words.get(model, "").splitlines()[-lines:])
