"""How long the event loop stands still: everything waits then, streams, health checks and new connections alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from time import monotonic

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.telemetry.counts import Spread

_log = logging.getLogger(__name__)

_INTERVAL_SEC = 0.1
# What the router itself may take for anything; below it a machine under load is late as well.
NOTICED_SEC = 0.05
_SPOKEN_OF_SEC = 1.0
_SILENCE_SEC = 60.0
_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Heartbeat(Collector):
    """Beats ten times a second, and measures how late it is. A stall that falls between two beats is seen in part.

    Attributes:
        stalls: those of more than 50 ms since the start, in seconds.
    """

    def __init__(self) -> None:
        self.stalls = Spread(_BUCKETS)
        self._silent_until = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = monotonic() + _INTERVAL_SEC
            await asyncio.sleep(_INTERVAL_SEC)
            self.note(monotonic() - due)

    def note(self, late: float) -> None:
        """One beat came so many seconds late."""
        if late <= NOTICED_SEC:
            return
        self.stalls.observe(late)
        now = monotonic()
        if late >= _SPOKEN_OF_SEC and now >= self._silent_until:
            self._silent_until = now + _SILENCE_SEC
            _log.warning("the event loop stood still for %.1f s: the machine has too much to do, or a disk hangs", late)

    def describe(self) -> Sequence[Metric]:
        """Nothing: the registry would otherwise scrape once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("router_event_loop_stall_seconds", "Times when all stood still, above 50 ms.")
        family.add_metric([], self.stalls.buckets(), self.stalls.sum)
        yield family
