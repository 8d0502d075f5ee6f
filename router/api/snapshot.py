"""The engine's views as the status that clients see: the one way, for answers and streams alike."""

from __future__ import annotations

from collections.abc import Sequence

from router.api.schemas import FullStatus, ModelStatus, ModelUpdate, ReplicaStatus, WallClock
from router.api.services import Engine, Services
from router.core.types import DeviceView, ModelView
from router.telemetry.gauges import memory_seen


def full_status(services: Services) -> FullStatus:
    """Every model now."""
    engine = services.engine
    clock, devices = WallClock(engine.clock()), engine.devices()
    models = {view.name: _status(engine, view, clock, devices) for view in engine.views()}
    return FullStatus.of(models, accepting=engine.accepting, reloads=services.telemetry.reloads)


def model_status(engine: Engine, view: ModelView) -> ModelStatus:
    """One model as `view` tells it."""
    return _status(engine, view, WallClock(engine.clock()), engine.devices())


def model_update(engine: Engine, view: ModelView) -> ModelUpdate:
    """One model's change, for the stream."""
    return ModelUpdate(alias=view.name, **dict(model_status(engine, view)))


def _status(engine: Engine, view: ModelView, clock: WallClock, devices: Sequence[DeviceView]) -> ModelStatus:
    # A queued view may be of replicas that are gone by now: those have no port any more.
    return ModelStatus.of(
        view,
        clock,
        memory=memory_seen(view, devices),
        port=None if view.replica is None else engine.port(view.replica),
        pid=None if view.replica is None else engine.pid(view.replica),
        replicas=[
            ReplicaStatus.of(
                one, clock, memory=memory_seen(one, devices), port=engine.port(one.id), pid=engine.pid(one.id)
            )
            for one in view.replicas
        ],
    )
