"""One replica's life outside the scheduler: launch, readiness, liveness, end, and the return of its memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from time import monotonic
from typing import Any, Protocol, TypeVar

from router.core.types import DeviceId, DeviceReading, Placement, ReplicaId
from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.ports import (
    KEEP_TIMEOUT_SEC,
    Child,
    ChildExit,
    ConversationEvent,
    DeviceMonitor,
    Launcher,
    LaunchError,
    LoadPhase,
    LoadProgress,
)
from router.engine.slot_watch import SlotWatch
from router.engine.vital_signs import VitalSigns
from router.errors import RouterError

_log = logging.getLogger(__name__)

_RECLAIM_INTERVAL = 0.1
_PROGRESS_INTERVAL = 0.05
# Of what a replica was seen to hold on a GPU, the part that must be free again before it counts as given back.
_RECLAIMED_SHARE = 0.9
# An estimate that is further off than this factor is found out by running out of memory.
_MOST_MISJUDGED = 2

T = TypeVar("T")


class SupervisorEvents(Protocol):
    """What a supervisor reports; implemented by the engine."""

    def load_progressed(self, supervisor: Supervisor, progress: LoadProgress) -> None: ...

    def replica_ready(self, supervisor: Supervisor, slots: int) -> None: ...

    def replica_exited(self, supervisor: Supervisor, ended: ChildExit) -> None: ...

    def replica_reclaimed(self, supervisor: Supervisor) -> None: ...

    def lease_ended(self, lease: Lease) -> None: ...

    def conversations(self, supervisor: Supervisor, event: ConversationEvent, count: int, seconds: float) -> None: ...


class Supervisor:
    """Owns one child from its launch to the return of its memory; `run` is its whole life."""

    def __init__(
        self,
        *,
        model: str,
        replica: ReplicaId,
        placement: Placement,
        launcher: Launcher,
        monitor: DeviceMonitor,
        limits: Limits,
        events: SupervisorEvents,
    ) -> None:
        self.model = model
        self.replica = replica
        self.placement = placement
        self.child: Child | None = None
        self.watch: SlotWatch | None = None
        # GPU bytes by the change of the device around the load, for where NVML does not show our processes.
        self._measured: dict[DeviceId, int] = {}
        # The last observation while the child lived: what it held, and what the devices showed then.
        self.held: Mapping[DeviceId, int] = {}
        self.readings: tuple[DeviceReading, ...] = ()
        # The most it ever held, where the kernel keeps count of it.
        self.peak: Mapping[DeviceId, int] = {}
        # What it has told of its load so far.
        self.progress = LoadProgress()
        self.phases: dict[LoadPhase, float] = {}
        self._launcher = launcher
        self._monitor = monitor
        self._limits = limits
        self._signs: VitalSigns | None = None
        self._events = events
        self._restoring = False
        self._ended = False
        self._stop_wanted = asyncio.Event()
        self._in_a_hurry = asyncio.Event()
        self._cut_short = asyncio.Event()
        self._grace = limits.stop_grace
        self._last = False
        self._slots = 1  # of its child, once that has told
        self._began = monotonic()

    def stop(self, *, force: bool, keep: bool = False) -> None:
        """End the child. `force` skips the grace period; `keep` saves its conversations first."""
        if force:
            self._shorten(0.0)
        if not keep:
            self._in_a_hurry.set()
        self._stop_wanted.set()

    def finish(self, *, grace: float) -> None:
        """End the child as the router ends: no later than this, and nobody waits for its memory."""
        self._last = True
        self._shorten(grace)
        self.stop(force=False)

    def _shorten(self, grace: float) -> None:
        """Leave it no more time than this, also if it is being ended already."""
        self._grace = min(self._grace, grace)
        self._cut_short.set()

    def adopt(self, limits: Limits) -> None:
        """Keep these deadlines from now on, also with a load under way."""
        self._limits = limits
        if self.watch is not None:
            self.watch.limits = limits
        if self._signs is not None:
            self._signs.limits = limits

    def abort_leases(self, error: RouterError) -> None:
        """End what runs on the child."""
        for lease in () if self.watch is None else self.watch.leases:
            lease.abort(error)

    async def run(self) -> None:
        """From launch to reclaimed memory. Reports each step; only a cancellation leaves it early."""
        try:
            ended = await self._verdict()
            self._ended = True
            if ended.halted:
                self._grace = 0.0
            # Told before the child is ended, if that is our verdict: nothing may be granted on it from here on.
            self._events.replica_exited(self, ended)
        finally:
            if self.child is not None:
                # Also when this task is cancelled: a child never outlives its supervisor.
                await asyncio.shield(self._end(self.child))
        try:
            await self._reclaim()
            self.readings = await self._monitor.read()
        finally:
            self._events.replica_reclaimed(self)

    async def observe(self, readings: tuple[DeviceReading, ...]) -> Mapping[DeviceId, int]:
        """Bytes the child holds now per device, with the devices' readings of the same moment."""
        if self.child is None or self._ended:
            return {}
        if self._restoring:  # what it grows by now is no part of what it takes at least
            return self.held
        self.held = self._measured | dict(await self._monitor.usage(self.child.pid))
        self.readings = readings
        await self._note_peak(self.child)
        return self.held

    async def _note_peak(self, child: Child) -> None:
        # A process that is gone has no mark any more, so that the last one seen stands.
        self.peak = {**self.peak, **await self._monitor.high_water(child.pid)}

    async def _verdict(self) -> ChildExit:
        try:
            return await self._live()
        except Exception as error:  # noqa: BLE001  a bug here must not leave the scheduler waiting for ever
            _log.exception("supervisor of %s failed", self.model)
            return ChildExit(1, f"internal error in its supervisor: {error!r}")

    async def _live(self) -> ChildExit:
        before = await self._gpu_used()
        began = monotonic()
        launched = await _first(self._launch(), self._until_called_off(), self._until_overdue())
        if isinstance(launched, ChildExit):
            return launched
        self.phases["spawn"] = monotonic() - began
        self.child = launched
        on_cpu = not self.placement.gpus
        self.watch = watch = SlotWatch(launched, self._limits, self._events.lease_ended, on_cpu=on_cpu)
        return await self._attend(launched, watch, before)

    async def _launch(self) -> Child | ChildExit:
        try:
            return await self._launcher.launch(self.model, self.replica, self.placement)
        except LaunchError as error:
            return ChildExit(1, str(error), passing=error.passing)

    async def _until_called_off(self) -> Child | ChildExit:
        """A launch may first have to ask llama.cpp what it can, and that may hang."""
        await self._stop_wanted.wait()
        return ChildExit(0, "was given up before it was started")

    async def _until_overdue(self) -> Child | ChildExit:
        while not self._overdue:  # noqa: ASYNC110  it may be configured anew
            await asyncio.sleep(_PROGRESS_INTERVAL)
        limit = f"{self._limits.load_timeout:g} s (load_timeout_sec)"
        why = "llama-server does not say what it can (`--version`, `--help`), or a disk hangs"
        return ChildExit(1, f"was not started within {limit}: {why}", passing=True)

    @property
    def _overdue(self) -> bool:
        """Launch and load together take too long, by the deadline of now: it may have been configured anew."""
        return monotonic() - self._began > self._limits.load_timeout

    async def _attend(self, child: Child, watch: SlotWatch, before: Mapping[DeviceId, int]) -> ChildExit:
        """Until the child ends, is told to, or has to."""
        self._signs = signs = VitalSigns(child, self._limits, watch)
        ended = await _first(
            child.wait(),
            self._serve(child, watch, signs, before),
            self._until_stop(child),
            signs.until_halted(),
        )
        if ended.code == 0 and not self._stop_wanted.is_set():
            return ChildExit(0, ended.reason or "exited with code 0 though nobody had asked it to")
        return ended

    async def _until_stop(self, child: Child) -> ChildExit:
        await self._stop_wanted.wait()
        if not self._in_a_hurry.is_set():
            began = monotonic()
            saved = await _first(self._hurry(), child.save_conversations(), self._until_disk_hangs())
            self._events.conversations(self, "saved", saved, monotonic() - began)
        await self._note_peak(child)
        return await self._end(child)

    async def _end(self, child: Child) -> ChildExit:
        """Within its grace, which may be cut short meanwhile."""
        return await _first(child.stop(grace=self._grace), self._stop_sooner(child))

    async def _stop_sooner(self, child: Child) -> ChildExit:
        await self._cut_short.wait()
        return await child.stop(grace=self._grace)

    async def _until_disk_hangs(self) -> int:
        """Ends, with nothing known to be saved or restored, when that has taken longer than it may."""
        await asyncio.sleep((self._limits.keep_timeout or KEEP_TIMEOUT_SEC) * (self._slots + 1))
        _log.warning("the conversations of %s are left as they are: the disk that they are on hangs", self.model)
        return 0

    async def _hurry(self) -> int:
        """Ends, with nothing saved, once there is no time for that."""
        await self._in_a_hurry.wait()
        return 0

    async def _serve(
        self, child: Child, watch: SlotWatch, signs: VitalSigns, before: Mapping[DeviceId, int]
    ) -> ChildExit:
        began = monotonic()
        try:
            self._slots = slots = await self._load(child, before)
        except TimeoutError:
            limit = self._limits.load_timeout
            return ChildExit(1, f"was not ready within {limit:g} s (load_timeout_sec)", passing=True)
        except LaunchError as error:
            return ChildExit(1, str(error), passing=error.passing)
        serves = monotonic()
        if not self.progress.allocated:
            await self._measure(child, before)
        await self.observe(await self._monitor.read())  # before it holds anything that grows with use
        restoring, self._restoring = monotonic(), True
        restored = await _first(child.restore_conversations(), self._until_disk_hangs())
        self._restoring = False
        self._events.conversations(self, "restored", restored, monotonic() - restoring)
        self.phases |= {"read": serves - began, "ready": monotonic() - serves}
        self._events.replica_ready(self, slots)
        return await _first(signs.until_silent(), watch.run())

    async def _load(self, child: Child, before: Mapping[DeviceId, int]) -> int:
        """Wait until it is ready, and pass on what it tells meanwhile; returns its slots. Raises TimeoutError."""
        ready = asyncio.create_task(child.ready())
        try:
            while not (await asyncio.wait((ready,), timeout=_PROGRESS_INTERVAL))[0]:
                await self._note_progress(child, before)
                if self._overdue:
                    raise TimeoutError
            await self._note_progress(child, before)
            return ready.result()
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _note_progress(self, child: Child, before: Mapping[DeviceId, int]) -> None:
        last, self.progress = self.progress, child.progress
        if self.progress.allocated and not last.allocated:
            await self._measure(child, before)  # from here on the next load may change the same devices
        if self.progress != last:
            self._events.load_progressed(self, self.progress)

    async def _gpu_used(self) -> dict[DeviceId, int]:
        gpus = self.placement.gpus
        if not gpus:
            return {}
        return {reading.id: reading.used for reading in await self._monitor.read() if reading.id in gpus}

    async def _measure(self, child: Child, before: Mapping[DeviceId, int]) -> None:
        """Where the monitor cannot tell what the child holds on a GPU, take the change of the device."""
        shown = await self._monitor.usage(child.pid)
        after = await self._gpu_used()
        # Others may have taken memory meanwhile, and what is learned stays: not all of it is put down to this child.
        most = {gpu: _MOST_MISJUDGED * self.placement.bytes[gpu] for gpu in self.placement.gpus}
        grown = {gpu: used - before.get(gpu, used) for gpu, used in after.items() if gpu not in shown}
        self._measured = {gpu: max(0, min(amount, most[gpu])) for gpu, amount in grown.items()}

    async def _reclaim(self) -> None:
        """Wait until the GPUs show the dead child's memory as free, or until the deadline.

        Host memory is free once the process has been reaped; a GPU's driver may take a moment longer.
        """
        used = {reading.id: reading.used for reading in self.readings}
        expected = {gpu: used[gpu] - _RECLAIMED_SHARE * self.held.get(gpu, 0)
                    for gpu in self.placement.gpus if gpu in used}  # fmt: skip
        limit = self._limits.reclaim_timeout
        try:
            async with asyncio.timeout(limit):
                while expected and not self._last:
                    used = await self._gpu_used()
                    if all(used.get(gpu, 0) <= most for gpu, most in expected.items()):
                        return
                    await asyncio.sleep(_RECLAIM_INTERVAL)
        except TimeoutError:
            _log.warning("the GPU memory of %s was not seen free %g s after its end", self.model, limit)


async def _first(*ways: Coroutine[Any, Any, T]) -> T:
    """The result of the way that ends first (in a tie, of the one named first); the others are cancelled."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
