"""What became of reading the configuration anew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Reloads(Collector):
    """Counts attempts, and knows when a configuration was taken last; the one of the start counts as the first.

    Attributes:
        taken_at: Unix time at which the present configuration was taken.
        refusal: what was wrong with the last one that was not; empty since one was taken.
    """

    def __init__(self) -> None:
        self.taken_at = time.time()
        self.refusal = ""
        self._counts = {"success": 0, "refused": 0}

    @property
    def tried(self) -> bool:
        """Whether there has been an attempt."""
        return any(self._counts.values())

    def succeeded(self) -> None:
        self._counts["success"] += 1
        self.taken_at, self.refusal = time.time(), ""

    def refused(self, why: str) -> None:
        self._counts["refused"] += 1
        self.refusal = why

    def describe(self) -> Sequence[Metric]:
        """Nothing: the registry would otherwise scrape once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(
            "router_config_reloads_total", "Attempts to read the configuration anew.", labels=["result"]
        )
        for result, count in self._counts.items():
            counter.add_metric([result], count)
        yield counter
        yield GaugeMetricFamily(
            "router_config_last_success_timestamp_seconds",
            "When the present configuration was taken, in Unix time.",
            value=self.taken_at,
        )
        yield GaugeMetricFamily(
            "router_config_last_reload_successful",
            "1 if the last attempt to read the configuration anew was taken, or there was none; 0 if it was refused.",
            value=not self.refusal,
        )
