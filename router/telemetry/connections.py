"""What is counted of clients' connections, and how it is told to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Literal, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Refusal = Literal[
    # Before it became a request.
    "malformed",
    "header_timeout",
    "connections",
    "peer_connections",
    "requests",
    # By its head, or while its body was read.
    "no_key",
    "wrong_key",
    "forbidden",
    "stranger",
    "head_size",
    "body_size",
    "body_timeout",
]
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)


class ConnectionCounts:
    """Plain numbers, which the event loop's thread adds to.

    Attributes:
        open: connections of clients.
        requests: those that are being answered.
        refused: by reason, since the start.
    """

    def __init__(self) -> None:
        self.open = 0
        self.requests: Sized = ()
        self.refused: dict[Refusal, int] = dict.fromkeys(REFUSALS, 0)


class ConnectionsCollector(Collector):
    """Turns the numbers into samples at each scrape."""

    def __init__(self, counts: ConnectionCounts) -> None:
        self._counts = counts

    def describe(self) -> Sequence[Metric]:
        """Nothing: the registry would otherwise scrape once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        yield GaugeMetricFamily("router_connections_open", "Connections of clients.", counts.open)
        yield GaugeMetricFamily("router_requests_open", "Requests that are being answered.", len(counts.requests))
        refused = CounterMetricFamily(
            "router_refusals_total", "Requests and connections that no model has seen, by reason.", labels=["reason"]
        )
        for reason, count in counts.refused.items():
            refused.add_metric([reason], count)
        yield refused
