"""Watches one replica's slots for its leases: stalls, time limits, abandoned work.

The hot path only stamps `lease.last_progress`. Everything that needs a look at the child's `/slots` happens here, and
only while a lease has been quiet for a while or has been abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Never

from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.ports import Child, SlotReading
from router.errors import GenerationTimeout, UpstreamStalled

# While a slot is waited for, so that it is granted again soon after it is idle.
_ABANDONED_INTERVAL = 0.1
_QUIET_INTERVAL = 1.0
# A lease this old has reached its slot; a younger one may not show in `/slots` yet.
_DISPATCH_TIME = 0.5


class SlotWatch:
    """The leases of one replica, and the task that looks after them.

    Args:
        ended: called with an abandoned lease once its slot is idle.
    """

    def __init__(self, child: Child, limits: Limits, ended: Callable[[Lease], None]) -> None:
        self._child = child
        self._limits = limits
        self._ended = ended
        self._serving: dict[int, Lease] = {}
        self._abandoned: dict[int, Lease] = {}
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._last_slots: dict[int, SlotReading] = {}

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Leases that are being served."""
        return tuple(self._serving.values())

    def add(self, lease: Lease) -> None:
        self._serving[lease.id] = lease
        self._work.set()

    def finish(self, lease: Lease) -> None:
        self._serving.pop(lease.id, None)

    def abandon(self, lease: Lease) -> None:
        """The client has gone; the child may still be busy with it."""
        if self._serving.pop(lease.id, None) is not None:
            self._abandoned[lease.id] = lease
            self._hurry.set()

    async def run(self) -> Never:
        """Look after the leases until cancelled."""
        while True:
            if not self._serving and not self._abandoned:
                self._work.clear()
            await self._work.wait()
            await self._pause()
            now = monotonic()
            self._enforce_limit(now)
            quiet = self._quiet(now)
            if quiet or self._abandoned:
                await self._look(quiet)
            self._enforce_stall(monotonic())

    async def _pause(self) -> None:
        """Between two rounds; an abandoned lease shortens it."""
        if self._abandoned:
            await asyncio.sleep(_ABANDONED_INTERVAL)
            return
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_QUIET_INTERVAL, self._limits.request_timeout / 4)):
                await self._hurry.wait()

    def _quiet(self, now: float) -> list[Lease]:
        patience = self._limits.request_timeout / 4
        return [lease for lease in self._serving.values() if now - lease.last_progress > patience]

    async def _look(self, quiet: list[Lease]) -> None:
        """Read `/slots`: credit quiet leases whose slots move, end abandoned ones whose slots are idle."""
        try:
            slots = await self._child.slots()
        except (OSError, TimeoutError):
            return  # the health check finds out what is wrong
        now = monotonic()
        moving = sum(1 for slot in slots if slot.busy and self._moved(slot))
        self._last_slots = {slot.id: slot for slot in slots}
        talking = len(self._serving) - len(quiet)
        if moving > talking:
            for lease in quiet:
                lease.last_progress = now
        self._settle(sum(slot.busy for slot in slots), now)

    def _moved(self, slot: SlotReading) -> bool:
        last = self._last_slots.get(slot.id)
        return last is None or (slot.task, slot.progress) != (last.task, last.progress)

    def _settle(self, busy: int, now: float) -> None:
        """Slots that the served leases do not account for belong to abandoned ones; the rest of those is over."""
        reached = sum(1 for lease in self._serving.values() if now - lease.granted_at > _DISPATCH_TIME)
        over = len(self._abandoned) - max(0, busy - reached)
        for lease in list(self._abandoned.values())[: max(0, over)]:
            del self._abandoned[lease.id]
            self._ended(lease)

    def _enforce_limit(self, now: float) -> None:
        limit = self._limits.generation_timeout
        for lease in self.leases:
            if now - lease.granted_at > limit:
                lease.abort(GenerationTimeout(f"The request ran longer than {limit:g} s (generation_timeout_sec)."))

    def _enforce_stall(self, now: float) -> None:
        limit = self._limits.request_timeout
        for lease in self.leases:
            if now - lease.last_progress > limit:
                lease.abort(
                    UpstreamStalled(f"Model '{lease.model}' made no progress for {limit:g} s (request_timeout_sec).")
                )
