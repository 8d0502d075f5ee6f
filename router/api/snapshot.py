"""The engine's views as the status that clients see: the one way, for answers and streams alike."""

from __future__ import annotations

from collections.abc import Sequence

from router.api.schemas import FullStatus, ModelStatus, ModelUpdate, WallClock
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
    # A queued view may be older than the engine's present replica; its port would be another's.
    is_present = engine.view(view.name).replica == view.replica
    return ModelStatus.of(
        view,
        clock,
        memory=memory_seen(view, devices),
        port=engine.port(view.name) if is_present else None,
        pid=engine.pid(view.name) if is_present else None,
    )
