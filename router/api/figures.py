"""What the monitoring and live routes answer; sizes and times as in `schemas`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from router.api.schemas import MIB, Count, Queued, Schema, Seconds, WallClock
from router.core.types import DeviceKind, DeviceView, ModelView, Need, Obstacle, ReplicaView, Status
from router.telemetry.gauges import Sample, memory_seen
from router.telemetry.summary import Summary

DeviceName = Annotated[str, Field(description="`gpu:<index>` or `host`")]


class Health(BaseModel):
    """The process answers. Further fields tell which llama.cpp it uses."""

    model_config = ConfigDict(extra="allow", frozen=True)

    status: Literal["ok"] = "ok"
    version: str
    uptime_sec: Seconds


class Readiness(Schema):
    """The router takes requests and its scheduler keeps its word."""

    status: Literal["ready"] = "ready"


class DeviceMemory(Schema):
    """One memory: what it shows, and what the router makes of it."""

    id: DeviceName
    name: str
    kind: DeviceKind
    total_bytes: Count
    used_bytes: Count
    free_bytes: Count
    capacity_bytes: Count = Field(description="what models may take at most")
    booked_bytes: Count = Field(description="promised to models")
    seen_bytes: Count = Field(description="seen in models' processes")
    others_bytes: Count = Field(description="used by processes that are not ours")
    available_bytes: Count = Field(description="what a new model could book now")
    fault: str | None = Field(default=None, description="why it cannot be read now; then it gets no new model")
    total_mb: Count
    used_mb: Count
    free_mb: Count

    @classmethod
    def of(cls, view: DeviceView) -> Self:
        return cls(
            id=view.device.id,
            name=view.device.name,
            kind=view.device.kind,
            total_bytes=view.total,
            used_bytes=view.used,
            free_bytes=view.free,
            capacity_bytes=view.device.capacity,
            booked_bytes=view.booked,
            seen_bytes=view.seen,
            others_bytes=view.others,
            available_bytes=max(0, view.available),
            fault=view.fault or None,
            total_mb=view.total // MIB,
            used_mb=view.used // MIB,
            free_mb=view.free // MIB,
        )


class MemoryEstimate(Schema):
    """What the next load is expected to take."""

    gpu_bytes: Count
    host_bytes: Count
    reserve_bytes: Count = Field(description="host RAM it may grow into beyond that")
    source: str = Field(description="where the figures come from, e.g. `formula` or `observed`")

    @classmethod
    def of(cls, need: Need) -> Self:
        return cls(gpu_bytes=need.gpu, host_bytes=need.host, reserve_bytes=need.growth, source=need.source)


class ReplicaMemory(Schema):
    """Bytes booked for one replica, and seen, per device."""

    id: int
    booked_bytes: dict[DeviceName, Count]
    seen_bytes: dict[DeviceName, Count]

    @classmethod
    def of(cls, view: ReplicaView) -> Self:
        return cls(id=view.id, booked_bytes=dict(view.booked), seen_bytes=dict(view.seen))


class ModelMemory(Schema):
    """Bytes booked and seen per device, by all replicas together; empty for a model that is off."""

    booked_bytes: dict[DeviceName, Count]
    seen_bytes: dict[DeviceName, Count]
    booked_mb: Count
    seen_mb: Count
    estimate: MemoryEstimate = Field(description="of one replica")
    replicas: list[ReplicaMemory]

    @classmethod
    def of(cls, view: ModelView) -> Self:
        return cls(
            booked_bytes=dict(view.booked),
            seen_bytes=dict(view.seen),
            booked_mb=sum(view.booked.values()) // MIB,
            seen_mb=sum(view.seen.values()) // MIB,
            estimate=MemoryEstimate.of(view.estimate),
            replicas=[ReplicaMemory.of(one) for one in view.replicas],
        )


class Memory(Schema):
    """All memories, and what models take of them."""

    devices: list[DeviceMemory]
    models: dict[str, ModelMemory]


class ReplicaSlots(Schema):
    """The slots of one replica."""

    id: int
    status: Status
    slots: Count
    busy: Count

    @classmethod
    def of(cls, view: ReplicaView) -> Self:
        return cls(id=view.id, status=view.status, slots=view.slots, busy=view.busy)


class ModelQueue(Schema):
    """One model's queue: one line, however many replicas serve it."""

    queued: Queued
    depth: Count
    oldest_wait_sec: Seconds
    head_deadline: datetime | None = Field(default=None, description="when the first waiter's claim to memory is due")
    waits_for: Obstacle | None = Field(default=None, description="why the first one waits")
    shortage: str | None = Field(default=None, description="the memory that it waits for, and who has it")
    expected_wait_sec: Seconds = Field(description="what one more request would probably wait")
    slots: Count = Field(description="of all replicas; 0 when none is there")
    busy: Count
    replicas: list[ReplicaSlots]

    @classmethod
    def of(cls, view: ModelView, clock: WallClock) -> Self:
        return cls(
            queued=Queued.of(view),
            depth=view.queue_depth,
            oldest_wait_sec=round(view.oldest_wait, 3),
            head_deadline=clock.at(view.head_deadline),
            waits_for=view.obstacle,
            shortage=view.shortage or None,
            expected_wait_sec=round(view.expected_wait, 3),
            slots=0 if view.replica is None else view.slots,
            busy=view.busy,
            replicas=[ReplicaSlots.of(one) for one in view.replicas],
        )


class QueueTotals(Schema):
    depth: Count
    oldest_wait_sec: Seconds
    slots: Count
    busy: Count


class QueueStats(Schema):
    """All queues."""

    models: dict[str, ModelQueue]
    total: QueueTotals

    @classmethod
    def of(cls, models: Mapping[str, ModelQueue]) -> Self:
        queues = models.values()
        return cls(
            models=dict(models),
            total=QueueTotals(
                depth=sum(queue.depth for queue in queues),
                oldest_wait_sec=max((queue.oldest_wait_sec for queue in queues), default=0.0),
                slots=sum(queue.slots for queue in queues),
                busy=sum(queue.busy for queue in queues),
            ),
        )


class TelemetrySummary(Schema):
    """Requests, tokens and percentiles over the last `window_sec` seconds; see `covered_sec` for a young router."""

    window_sec: Seconds
    overall: Summary
    models: dict[str, Summary]


class ModelHealth(Schema):
    """`failing` = the last load or replica failed; `log` holds its last lines then."""

    health: Literal["ok", "failing"]
    status: Status
    reason: str | None = None
    retry_at: datetime | None = None
    log: list[str] | None = None


class ModelsHealth(Schema):
    status: Literal["ok", "degraded"]
    models: dict[str, ModelHealth]


class LiveModel(Schema):
    """One model's gauges."""

    status: Status
    slots: Count
    busy: Count
    queued: Count
    oldest_wait_sec: Seconds
    vram_bytes: Count


class LiveDevice(Schema):
    """One device's gauges."""

    total_bytes: Count
    used_bytes: Count
    free_bytes: Count
    booked_bytes: Count


class LiveGauges(Schema):
    """The main gauges at one moment."""

    at: datetime | None
    models: dict[str, LiveModel]
    devices: dict[DeviceName, LiveDevice]

    @classmethod
    def of(cls, sample: Sample, clock: WallClock) -> Self:
        return cls(
            at=clock.at(sample.at),
            models={view.name: _live_model(view, memory_seen(view, sample.devices)) for view in sample.models},
            devices={view.device.id: _live_device(view) for view in sample.devices},
        )


def _live_model(view: ModelView, memory: int) -> LiveModel:
    return LiveModel(
        status=view.status,
        slots=0 if view.replica is None else view.slots,
        busy=view.busy,
        queued=view.queue_depth,
        oldest_wait_sec=round(view.oldest_wait, 3),
        vram_bytes=memory,
    )


def _live_device(view: DeviceView) -> LiveDevice:
    return LiveDevice(total_bytes=view.total, used_bytes=view.used, free_bytes=view.free, booked_bytes=view.booked)
