"""Whether a child that is there is alive: what the kernel says of its process, and what it says itself.

Start-up has a bound of its own (`Limits.load_timeout`), and so has the progress of each request (`slot_watch`). What is
looked at here is the time in between: a process that was stopped, and a server that answers nobody any more.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from router.engine.computing import Computing
from router.engine.limits import Limits
from router.engine.ports import Child, ChildExit
from router.engine.slot_watch import SlotWatch

# A process that is found halted so often in a row is given up: once may be a hand on Ctrl-Z, or the moment of its end.
_HALTS = 2
# After a failure the next check comes this much sooner: what hangs should be found before another interval is over.
_HURRY = 10


class VitalSigns:
    """Looks at one child; each method ends when it has to go, and says why."""

    def __init__(self, child: Child, limits: Limits, watch: SlotWatch) -> None:
        self._child = child
        self.limits = limits
        self._watch = watch

    async def until_halted(self) -> ChildExit:
        """From the launch on: a stopped process answers nothing and dies of SIGKILL only."""
        halts, why = 0, ""
        while halts < _HALTS:
            await asyncio.sleep(self.limits.process_interval)
            why = self._child.halted()
            halts = halts + 1 if why else 0
        return ChildExit(1, f"its process {why}", halted=True)

    async def until_silent(self) -> ChildExit:
        """From READY on: too many health checks in a row have failed, and it does nothing for anybody either."""
        failures = 0
        while failures < self.limits.health_failures:
            await asyncio.sleep(self.limits.health_interval / (_HURRY if failures else 1))
            asked, computing = monotonic(), Computing(self._child)
            if await self._child.healthy() or self._is_at_work(asked, computing):
                failures = 0
            else:
                failures += 1
        return ChildExit(1, f"did not answer {failures} health checks in a row (system.health_failures)")

    def _is_at_work(self, since: float, computing: Computing) -> bool:
        """Whether it has sent something since, or computes for a request: then the stall watchdog is its judge.

        A long prompt on a machine with few cores may leave none for a health check.
        """
        return self._watch.heard_since(since) or (bool(self._watch.leases) and bool(computing))
