"""One timer for all the times at which the scheduler wants to be woken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

# The loop's clock may be coarser than ours: never a tick too early.
_SLACK_SEC = 0.002


class Alarm:
    """Rings at the earliest of the times it was set to; whoever wants to be woken later as well sets it again.

    Args:
        ring: called on the running loop.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float) -> None:
        """Ring at this time of the monotonic clock, unless it rings earlier anyway."""
        if self._timer is not None and self._at <= at:
            return
        self.cancel()
        self._at = at
        delay = max(0.0, at - monotonic()) + _SLACK_SEC
        self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def cancel(self) -> None:
        """Do not ring. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._ring()
