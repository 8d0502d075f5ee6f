"""Prometheus metrics: names, labels, and the hot path that feeds them.

Labels come from the configuration only, so the number of series is known before the first request, and every series
exists at 0 from the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest

from router.core.types import ModelView, Priority, Status
from router.engine.ports import ConversationEvent, LoadPhase
from router.telemetry.connections import ConnectionCounts, ConnectionsCollector
from router.telemetry.counts import Counts, CountsCollector, KeyCounts
from router.telemetry.gauges import EngineGauges, Provider, SharedSampler
from router.telemetry.heartbeat import Heartbeat
from router.telemetry.records import RecentRequests, RequestRecord
from router.telemetry.reloads import Reloads
from router.telemetry.status import StatusBus


class Telemetry:
    """Counts what happens (`engine.ports.Observer` and the proxy's `request_finished`) and renders it.

    Args:
        models: canonical names of all configured models.
        keys: names of the clients' keys.
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
        keys: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        names = tuple(models)
        self._status = status
        self.clock = clock
        self._started = clock()
        self._counts = {name: Counts() for name in names}
        self._keys = KeyCounts(keys)
        self._gauges = EngineGauges()
        self.connections = ConnectionCounts()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(CountsCollector(self._counts))
        self.registry.register(self._keys)
        self.registry.register(self._gauges)
        self.reloads = Reloads()
        self.registry.register(self.reloads)
        self.registry.register(ConnectionsCollector(self.connections))
        self.heartbeat = Heartbeat()
        self.registry.register(self.heartbeat)
        build = Gauge("router_build_info", "Always 1; the label is the version.", ["version"], registry=self.registry)
        build.labels(version).set(1)
        ProcessCollector(registry=self.registry)
        self.recent = RecentRequests(names, since=self._started)
        self.sampler = SharedSampler()

    def adopt(self, models: Iterable[str], keys: Iterable[str] = ()) -> None:
        """Count these from now on. What was counted of others stays: a counter never goes back."""
        for name in models:
            self._counts.setdefault(name, Counts())
            self.recent.adopt(name)
        self._keys.adopt(keys)

    def attach(self, engine: Provider) -> None:
        """Name the engine that gauges are read from; it is made after its observer."""
        self._gauges.attach(engine)

    def uptime(self) -> float:
        """Seconds since this was made."""
        return self.clock() - self._started

    def render(self) -> bytes:
        """The page for `GET /metrics`, Prometheus text format 0.0.4. To be called on the event loop's thread."""
        return generate_latest(self.registry)

    def request_finished(self, record: RequestRecord) -> None:
        """One relayed request has ended, in whatever way."""
        counts = self._counts[record.model]
        counts.requests[record.status] += 1
        self._keys.add(record.key, record.status)
        counts.tokens_in += record.tokens_in
        counts.tokens_out += record.tokens_out
        counts.tokens_cached += record.tokens_cached
        counts.prompt_seconds += record.prompt_seconds
        counts.generation_seconds += record.generation_seconds
        counts.duration.observe(record.duration)
        first_byte = record.time_to_first_byte
        if first_byte is not None:
            counts.first_byte.observe(first_byte)
        self.recent.add(record)

    def request_replayed(self, model: str) -> None:
        """A request goes through the queue once more."""
        self._counts[model].replays += 1

    # -- engine.ports.Observer

    def model_changed(self, view: ModelView, previous: Status) -> None:  # noqa: ARG002 the port's signature
        self._status.publish(view)

    def granted(self, model: str, priority: Priority, waited: float) -> None:
        self._counts[model].waits[priority - 1].observe(waited)

    def load_finished(self, model: str, seconds: float, ok: bool) -> None:
        counts = self._counts[model]
        counts.loads["success" if ok else "failure"] += 1
        if ok:
            counts.load_seconds.observe(seconds)

    def load_phases(self, model: str, phases: Mapping[LoadPhase, float]) -> None:
        for phase, seconds in phases.items():
            self._counts[model].load_phases[phase].observe(seconds)

    def conversations(self, model: str, event: ConversationEvent, count: int) -> None:
        self._counts[model].conversations[event] += count

    def evicted(self, model: str, for_model: str) -> None:  # noqa: ARG002 the port's signature
        self._counts[model].evictions += 1

    def restarted(self, model: str) -> None:
        self._counts[model].restarts += 1

    def recycled(self, model: str, held: int) -> None:  # noqa: ARG002 the port's signature
        self._counts[model].recycles += 1
