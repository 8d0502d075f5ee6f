"""What the engine shows of models, replicas and memories, as a test wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from router.core.types import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    DeviceView,
    ModelView,
    Need,
    Priority,
    ReplicaView,
    Status,
)

MIB = 1 << 20


def model_view(name: str, **changes: Any) -> ModelView:
    """A model that is off and was never used, but for `changes`."""
    off = ModelView(
        name=name,
        status=Status.OFF,
        reason="",
        replica=None,
        slots=2,
        busy=0,
        queued=dict.fromkeys(Priority, 0),
        oldest_wait=0.0,
        loading_since=None,
        ready_since=None,
        last_used=None,
        retry_at=None,
        restarts=0,
        booked={},
        seen={},
        estimate=Need(gpu=0, host=300 * MIB, reserve=10 * MIB, source="file size"),
    )
    return replace(off, **changes)


def replica_view(number: int, **changes: Any) -> ReplicaView:
    """A replica that is ready with two slots and holds nothing, but for `changes`."""
    idle = ReplicaView(
        id=number,
        status=Status.READY,
        reason="",
        slots=2,
        busy=0,
        loading_since=None,
        ready_since=None,
        last_used=None,
        booked={},
        seen={},
    )
    return replace(idle, **changes)


def device_view(name: DeviceId = HOST, **changes: int) -> DeviceView:
    """A device of 1000 MiB."""
    kind, index = (DeviceKind.HOST, None) if name == HOST else (DeviceKind.GPU, int(name.removeprefix("gpu:")))
    about = Device(name, kind, index, f"Memory {name}", total=1000 * MIB, capacity=900 * MIB)
    sizes = {"total": 1000, "used": 400, "free": 600, "booked": 300, "seen": 200, "available": 500}
    in_bytes: Mapping[str, Any] = {key: size * MIB for key, size in (sizes | changes).items()}
    return DeviceView(about, **in_bytes)
