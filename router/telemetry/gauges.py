"""Gauges: read from the engine when somebody looks, never kept a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.core.types import HOST, DeviceKind, DeviceView, ModelView, ReplicaView, Status

_TIMER_SLACK = 0.002


class Provider(Protocol):
    """The part of the engine that telemetry reads."""

    def clock(self) -> float: ...

    def views(self) -> tuple[ModelView, ...]: ...

    def devices(self) -> tuple[DeviceView, ...]: ...

    def troubles(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """All models and devices at one moment of the engine's clock."""

    at: float
    models: tuple[ModelView, ...]
    devices: tuple[DeviceView, ...]


def memory_seen(view: ModelView | ReplicaView, devices: Sequence[DeviceView]) -> int:
    """Bytes a model or a replica is seen to hold: on the GPUs where there are any, else in host RAM."""
    if any(device.device.kind is DeviceKind.GPU for device in devices):
        return sum(size for device, size in view.seen.items() if device != HOST)
    return view.seen.get(HOST, 0)


def sample(engine: Provider) -> Sample:
    """Read the engine now."""
    return Sample(engine.clock(), engine.views(), engine.devices())


_MODEL_GAUGES: tuple[tuple[str, str, Callable[[Sample, ModelView], float]], ...] = (
    (
        "router_model_vram_bytes",
        "GPU memory the model is seen to hold; host RAM on a machine without a GPU.",
        lambda now, view: memory_seen(view, now.devices),
    ),
    ("router_queue_depth", "Requests waiting for a slot of the model.", lambda _, view: view.queue_depth),
    (
        "router_queue_oldest_wait_seconds",
        "How long the model's longest waiter has waited.",
        lambda _, view: view.oldest_wait,
    ),
    (
        "router_queue_expected_wait_seconds",
        "What one more request for the model would probably wait.",
        lambda _, view: view.expected_wait,
    ),
    (
        "router_slots",
        "Slots of the model's replicas together; 0 when it has none.",
        lambda _, view: view.slots if view.replica else 0,
    ),
    (
        "router_model_replicas",
        "Replicas of the model that serve.",
        lambda _, view: view.ready_replicas,
    ),
    ("router_slots_busy", "Slots with work of ours, abandoned work included.", lambda _, view: view.busy),
    (
        "router_model_memory_estimate_bytes",
        "What would be booked for the model's next load, on all devices.",
        lambda _, view: view.estimate.total,
    ),
    (
        "router_model_memory_observed_bytes",
        "What the model is seen to hold on all devices.",
        lambda _, view: sum(view.seen.values()),
    ),
)

_DEVICE_GAUGES: tuple[tuple[str, str, Callable[[DeviceView], float]], ...] = (
    ("router_device_memory_total_bytes", "Memory of the device.", lambda view: view.total),
    ("router_device_memory_used_bytes", "Memory in use by anybody.", lambda view: view.used),
    ("router_device_memory_free_bytes", "Memory not in use.", lambda view: view.free),
    ("router_device_memory_booked_bytes", "Memory booked for models.", lambda view: view.booked),
)


class EngineGauges(Collector):
    """Turns the attached engine's views into gauges at each scrape."""

    def __init__(self) -> None:
        self._engine: Provider | None = None

    def attach(self, engine: Provider) -> None:
        self._engine = engine

    def describe(self) -> Sequence[Metric]:
        """Nothing: the registry would otherwise scrape once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        if self._engine is None:
            return
        now = sample(self._engine)
        yield from _model_gauges(now)
        yield _state_gauge(now)
        yield from _device_gauges(now)
        yield GaugeMetricFamily(
            "router_scheduler_troubles",
            "Things that have stood still for longer than they can; /readyz names them.",
            value=len(self._engine.troubles()),
        )


def _model_gauges(now: Sample) -> Iterator[Metric]:
    for name, text, read in _MODEL_GAUGES:
        family = GaugeMetricFamily(name, text, labels=["model"])
        for view in now.models:
            family.add_metric([view.name], read(now, view))
        yield family


def _state_gauge(now: Sample) -> Metric:
    family = GaugeMetricFamily("router_model_state", "1 for the state the model is in.", labels=["model", "state"])
    for view in now.models:
        for status in Status:
            family.add_metric([view.name, status.value], float(view.status is status))
    return family


def _device_gauges(now: Sample) -> Iterator[Metric]:
    for name, text, read in _DEVICE_GAUGES:
        family = GaugeMetricFamily(name, text, labels=["device"])
        for device in now.devices:
            family.add_metric([device.device.id], read(device))
        yield family


class SharedSampler:
    """One sample per tick for all who listen; with nobody listening nothing is read.

    There is no task behind it: whoever first asks within a tick pays for the sample, the others share it.
    """

    def __init__(self, *, interval: float = 1.0) -> None:
        self.interval = interval
        self._tick = -1
        self._sample: Sample | None = None

    def at(self, engine: Provider) -> Sample:
        """The sample of the present tick."""
        tick = int(engine.clock() / self.interval)
        if self._sample is None or tick != self._tick:
            self._tick, self._sample = tick, sample(engine)
        return self._sample

    def until_next(self, now: float) -> float:
        """Seconds from `now` to just behind the next tick: timers may fire a millisecond early."""
        return self.interval - now % self.interval + _TIMER_SLACK
