"""Watches one replica's slots for its leases: stalls, time limits, abandoned work.

The hot path only stamps `lease.last_progress`. Everything that needs a look at the child's `/slots` happens here, and
only while a lease has been quiet for a while or has been abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from time import monotonic

from router.core.types import LeaseId
from router.engine.abandoned import AbandonedLeases
from router.engine.computing import Computing
from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.ports import Child, ChildExit, SlotReading
from router.engine.slot_motion import SlotMotion
from router.errors import GenerationTimeout, UpstreamStalled

# A slot that has not moved within the limit is lost if it does not let go within this time either. llama-server gives
# up a prompt between two batches.
_LET_GO = 10.0
# llama-server drops an abandoned stream at its next token, so its slot is soon granted again. A prompt it drops when it
# has had nothing to tell anybody for a second, and an answer to `/slots` counts as something.
_SOON = 0.3
_SOON_INTERVAL = 0.1
_SILENT_INTERVAL = 1.2


class SlotWatch:
    """The leases of one replica, and the task that looks after them.

    Args:
        ended: called with an abandoned lease once its slot is idle.
        on_cpu: it has no GPU, so that its CPU time tells whether it works at a prompt. (Whoever waits for a GPU that
            hangs takes CPU time too.)
    """

    def __init__(self, child: Child, limits: Limits, ended: Callable[[Lease], None], *, on_cpu: bool = False) -> None:
        self._child = child
        self.limits = limits
        self._ended = ended
        self._serving: dict[int, Lease] = {}
        self._abandoned = AbandonedLeases()
        self._on_cpu = on_cpu
        self._motion = SlotMotion()
        self._stalled_at = -math.inf
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Leases that are being served."""
        return tuple(self._serving.values())

    @property
    def held(self) -> frozenset[LeaseId]:
        """Leases that are being served, and those whose slots may still be busy."""
        return frozenset(lease.id for lease in (*self._serving.values(), *self._abandoned))

    def heard_since(self, moment: float) -> bool:
        """Whether a lease that is being served has received content since then."""
        return any(lease.last_progress > moment for lease in self.leases)

    def add(self, lease: Lease) -> None:
        self._serving[lease.id] = lease
        self._work.set()

    def finish(self, lease: Lease) -> None:
        self._serving.pop(lease.id, None)

    def abandon(self, lease: Lease) -> None:
        """The client has gone; the child may still be busy with it."""
        if self._serving.pop(lease.id, None) is not None:
            self._abandoned.add(lease, monotonic())
            self._hurry.set()

    async def run(self) -> ChildExit:
        """Look after the leases; returns why the replica has to go, if a slot is lost for good."""
        while True:
            if not self._serving and not self._abandoned:
                self._work.clear()
            await self._work.wait()
            computing = Computing(self._child)
            await self._pause()
            now = monotonic()
            self._enforce_limit(now)
            quiet = self._quiet(now)
            if quiet or self._abandoned:
                await self._look(quiet, computing)
            now = monotonic()
            self._enforce_stall(now)
            if self._is_lost(now):
                return ChildExit(1, "kept a slot busy without progress after its request had been given up")

    async def _pause(self) -> None:
        """Between two rounds; a lease that is abandoned cuts it short."""
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._interval(monotonic())):
                await self._hurry.wait()

    def _interval(self, now: float) -> float:
        newest = self._abandoned.newest
        if newest is not None and now - newest < _SOON:
            return _SOON_INTERVAL
        return min(_SILENT_INTERVAL, self.limits.request_timeout / 4)

    def _quiet(self, now: float) -> list[Lease]:
        patience = self.limits.request_timeout / 4
        return [lease for lease in self._serving.values() if now - lease.last_progress > patience]

    async def _look(self, quiet: Sequence[Lease], computing: Computing) -> None:
        """Read `/slots`: credit quiet leases whose slots move, end abandoned ones whose slots are idle."""
        serving, asked = self.leases, monotonic()
        try:
            slots = await self._child.slots()
        except (OSError, TimeoutError):
            # Older builds answer between two batches only; else the health check finds out what is wrong.
            if self._on_cpu and computing:
                self._credit_all(quiet, monotonic())
            return
        now = monotonic()
        busy = [slot for slot in slots if slot.busy]
        moved = self._motion.update(busy, now, computes=self._on_cpu and bool(computing))
        self._credit(quiet, busy, moved, now)
        for lease in self._abandoned.settle(busy, serving, asked):
            self._ended(lease)

    def _credit(self, quiet: Sequence[Lease], busy: Sequence[SlotReading], moved: set[int], now: float) -> None:
        """Count a moving slot as progress of the lease that holds it.

        A child numbers its tasks in the order in which requests reach it, which is that of the grants. Where there are
        as many busy slots as the leases hold that tells whose slot is whose; elsewhere (a request for several answers
        of which some have ended, or one that takes no slot) all quiet ones are credited if more slots move than there
        are leases that talk. That may credit one that hangs beside a wide one; the other way round would end one that
        works.
        """
        leases = sorted((*self._serving.values(), *self._abandoned), key=lambda lease: lease.id)
        holders = [lease for lease in leases for _ in range(lease.width)]
        if len(holders) == len(busy):
            in_order = sorted(busy, key=lambda slot: slot.task)
            moving = {lease.id for lease, slot in zip(holders, in_order, strict=True) if slot.id in moved}
            credited = [lease for lease in quiet if lease.id in moving]
        else:
            credited = list(quiet) if len(moved) > len(self._serving) - len(quiet) else []
        self._credit_all(credited, now)

    def _credit_all(self, leases: Sequence[Lease], now: float) -> None:
        for lease in leases:
            lease.last_progress = now

    def _enforce_limit(self, now: float) -> None:
        limit = self.limits.generation_timeout
        for lease in self.leases:
            if now - lease.granted_at > limit:
                lease.abort(GenerationTimeout(f"The request ran longer than {limit:g} s (generation_timeout_sec)."))

    def _enforce_stall(self, now: float) -> None:
        limit = self.limits.request_timeout
        for lease in self.leases:
            if now - lease.last_progress > limit:
                self._stalled_at = max(self._stalled_at, now)
                lease.abort(
                    UpstreamStalled(f"Model '{lease.model}' made no progress for {limit:g} s (request_timeout_sec).")
                )

    def _is_lost(self, now: float) -> bool:
        """Whether an abandoned slot hangs, and nobody would lose anything by a restart."""
        oldest = self._abandoned.oldest
        if oldest is None:
            return False
        limit = self.limits.request_timeout
        last_sign = max([self._motion.last_moved, *(lease.last_progress for lease in self.leases)])
        if last_sign < self._stalled_at:  # it has stood still for the limit already
            return now - max(oldest, self._stalled_at) > min(limit, _LET_GO)
        self._stalled_at = -math.inf
        return now - max(oldest, last_sign) > limit
