"""Prometheus metrics: names, labels, and the hot path that feeds them.

Labels come from the configuration only, so the number of series is known before the first request, and every series
exists at 0 from the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from router.core.types import ModelView, Priority, Status
from router.telemetry.gauges import EngineGauges, Provider, SharedSampler
from router.telemetry.records import REQUEST_STATUSES, RecentRequests, RequestRecord
from router.telemetry.status import StatusBus

# A second series per counter that tells the time of its creation would double the page for nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]

_WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0)
_FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_LOAD_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0)


@dataclass(frozen=True, slots=True)
class _Families:
    """The metrics before labels; building them registers them."""

    requests: Counter
    tokens_in: Counter
    tokens_out: Counter
    loads: Counter
    evictions: Counter
    restarts: Counter
    queue_wait: Histogram
    first_byte: Histogram
    duration: Histogram
    load_seconds: Histogram


@dataclass(frozen=True, slots=True)
class _Series:
    """One model's children, resolved once: the hot path is an attribute, a dict look-up and an increment."""

    requests: dict[str, Counter]
    tokens_in: Counter
    tokens_out: Counter
    loads: dict[bool, Counter]
    evictions: Counter
    restarts: Counter
    queue_wait: dict[Priority, Histogram]
    first_byte: Histogram
    duration: Histogram
    load_seconds: Histogram


class Telemetry:
    """Counts what happens (`engine.ports.Observer` and the proxy's `request_finished`) and renders it.

    Args:
        models: canonical names of all configured models.
        version: of the router, for `router_build_info`.
        status: told of every change of a model.
        clock: the engine's monotonic clock.
    """

    def __init__(
        self,
        models: Iterable[str],
        *,
        version: str,
        status: StatusBus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        names = tuple(models)
        self._status = status
        self.clock = clock
        self._started = clock()
        self.registry = CollectorRegistry(auto_describe=False)
        families = _register(self.registry)
        self._series = {name: _resolve(families, name) for name in names}
        self._gauges = EngineGauges()
        self.registry.register(self._gauges)
        build = Gauge("router_build_info", "Always 1; the label is the version.", ["version"], registry=self.registry)
        build.labels(version).set(1)
        ProcessCollector(registry=self.registry)
        self.recent = RecentRequests(names, since=self._started)
        self.sampler = SharedSampler()

    def attach(self, engine: Provider) -> None:
        """Name the engine that gauges are read from; it is made after its observer."""
        self._gauges.attach(engine)

    def uptime(self) -> float:
        """Seconds since this was made."""
        return self.clock() - self._started

    def render(self) -> bytes:
        """The page for `GET /metrics`, Prometheus text format 0.0.4."""
        return generate_latest(self.registry)

    def request_finished(self, record: RequestRecord) -> None:
        """One relayed request has ended, in whatever way."""
        series = self._series[record.model]
        series.requests[record.status].inc()
        series.tokens_in.inc(record.tokens_in)
        series.tokens_out.inc(record.tokens_out)
        series.duration.observe(record.duration)
        first_byte = record.time_to_first_byte
        if first_byte is not None:
            series.first_byte.observe(first_byte)
        self.recent.add(record)

    # -- engine.ports.Observer

    def model_changed(self, view: ModelView, previous: Status) -> None:  # noqa: ARG002 the port's signature
        self._status.publish(view)

    def granted(self, model: str, priority: Priority, waited: float) -> None:
        self._series[model].queue_wait[priority].observe(waited)

    def load_finished(self, model: str, seconds: float, ok: bool) -> None:
        series = self._series[model]
        series.loads[ok].inc()
        if ok:
            series.load_seconds.observe(seconds)

    def evicted(self, model: str, for_model: str) -> None:  # noqa: ARG002 the port's signature
        self._series[model].evictions.inc()

    def restarted(self, model: str) -> None:
        self._series[model].restarts.inc()


def _register(registry: CollectorRegistry) -> _Families:
    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["model", *labels], registry=registry)

    def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, ["model", *labels], buckets=buckets, registry=registry)

    return _Families(
        requests=counter("router_requests_total", "Relayed requests by outcome.", "status"),
        tokens_in=counter("router_tokens_in_total", "Prompt tokens, as the child reports them."),
        tokens_out=counter("router_tokens_out_total", "Generated tokens, as the child reports them."),
        loads=counter("router_loads_total", "Finished loads by result.", "result"),
        evictions=counter("router_evictions_total", "Unloads that made room for another model."),
        restarts=counter("router_restarts_total", "Restarts after a replica died."),
        queue_wait=histogram(
            "router_queue_wait_seconds", "From arrival to a granted slot, load included.", _WAIT_BUCKETS, "priority"
        ),
        first_byte=histogram(
            "router_time_to_first_byte_seconds", "From the request to the answer's first byte.", _FIRST_BYTE_BUCKETS
        ),
        duration=histogram(
            "router_request_duration_seconds",
            "From the request to the answer's end, waiting included.",
            _DURATION_BUCKETS,
        ),
        load_seconds=histogram("router_load_seconds", "How long successful loads took.", _LOAD_BUCKETS),
    )


def _resolve(families: _Families, model: str) -> _Series:
    return _Series(
        requests={status: families.requests.labels(model, status) for status in REQUEST_STATUSES},
        tokens_in=families.tokens_in.labels(model),
        tokens_out=families.tokens_out.labels(model),
        loads={ok: families.loads.labels(model, "success" if ok else "failure") for ok in (True, False)},
        evictions=families.evictions.labels(model),
        restarts=families.restarts.labels(model),
        queue_wait={kind: families.queue_wait.labels(model, kind.name.lower()) for kind in Priority},
        first_byte=families.first_byte.labels(model),
        duration=families.duration.labels(model),
        load_seconds=families.load_seconds.labels(model),
    )
