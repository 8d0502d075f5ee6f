"""Whether the router is well, and its figures."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from router import __version__
from router.api.dependencies import ServicesDep
from router.api.endpoints import CHILD_METRICS
from router.api.failures import ANYWHERE, READING, failures
from router.api.figures import (
    DeviceMemory,
    Health,
    Memory,
    ModelHealth,
    ModelMemory,
    ModelQueue,
    ModelsHealth,
    QueueStats,
    Readiness,
    TelemetrySummary,
)
from router.api.routes.upstream import ControlRelay
from router.api.schemas import WallClock
from router.api.services import Engine, Services
from router.core.types import ModelView, Status
from router.errors import RouterError
from router.telemetry.records import KEPT_SECONDS
from router.telemetry.summary import summarise_all

_LOG_LINES = 20

router = APIRouter(tags=["monitoring"], responses=failures(*ANYWHERE))


class NotReady(RouterError):
    """The router should get no requests now."""

    status, type, code = 503, "server_error", "not_ready"


@router.head("/health", include_in_schema=False)
@router.head("/healthz", include_in_schema=False)
@router.get("/health")
@router.get("/healthz", operation_id="healthz")
async def health(services: ServicesDep) -> Health:
    """The process answers; also while models load. Costs nothing."""
    info: dict[str, Any] = {"version": __version__, **services.server_info}
    info |= {"status": "ok", "uptime_sec": round(services.telemetry.uptime(), 3)}
    return Health(**info)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=failures(503))
async def readyz(services: ServicesDep) -> Readiness:
    """200 if requests are taken, the scheduler keeps its word and the memory can be read; else 503 with reasons.

    Preloading is not waited for: requests for a model that loads are held, not refused.
    """
    reasons = _unready_reasons(services)
    if reasons:
        raise NotReady(f"Not ready: {'; '.join(reasons)}.", retry_after=5)
    return Readiness()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_PLAIN_0_0_4: {}}}, **failures(404, 502, *READING)},
)
async def metrics(
    services: ServicesDep, model: Annotated[str | None, Query(description="of this model's child")] = None
) -> Response:
    """Prometheus metrics of the router, or with `model` those of that model's llama-server."""
    if model is not None:
        return ControlRelay(services, CHILD_METRICS)
    return Response(services.telemetry.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/vram", response_model_exclude_none=True)
async def vram(services: ServicesDep) -> Memory:
    """Memory of the devices, and what models have booked and are seen to take."""
    return Memory(
        devices=[DeviceMemory.of(device) for device in services.engine.devices()],
        models={view.name: ModelMemory.of(view) for view in services.engine.views()},
    )


@router.get("/v1/queue/stats", response_model_exclude_none=True)
async def queue_stats(services: ServicesDep) -> QueueStats:
    """Who waits for which model, how long, and why."""
    clock = WallClock(services.engine.clock())
    return QueueStats.of({view.name: ModelQueue.of(view, clock) for view in services.engine.views()})


@router.get("/v1/telemetry/summary", responses=failures(400))
async def telemetry_summary(
    services: ServicesDep, window_sec: Annotated[float, Query(ge=1, le=KEPT_SECONDS)] = 300
) -> TelemetrySummary:
    """Requests, tokens, latency and time to first byte over the last `window_sec` seconds."""
    windows = services.telemetry.recent.window(window_sec, services.engine.clock())
    # Sorting some ten thousand records per model would hold up the event loop.
    overall, models = await to_thread.run_sync(summarise_all, windows)
    return TelemetrySummary(window_sec=window_sec, overall=overall, models=models)


@router.get("/v1/health/models", response_model_exclude_none=True)
async def models_health(services: ServicesDep) -> ModelsHealth:
    """Which models work, and why the others do not."""
    clock = WallClock(services.engine.clock())
    models = {view.name: _model_health(services.engine, view, clock) for view in services.engine.views()}
    healthy = all(model.health == "ok" for model in models.values())
    return ModelsHealth(status="ok" if healthy else "degraded", models=models)


def _model_health(engine: Engine, view: ModelView, clock: WallClock) -> ModelHealth:
    if view.status is not Status.FAILED:
        return ModelHealth(health="ok", status=view.status, reason=view.reason or None)
    return ModelHealth(
        health="failing",
        status=view.status,
        reason=view.reason or None,
        retry_at=clock.at(view.retry_at),
        log=engine.tail(view.name, _LOG_LINES).splitlines(),
    )


def _unready_reasons(services: Services) -> list[str]:
    engine = services.engine
    reasons = []
    if not engine.accepting:
        reasons.append("it is starting up or shutting down")
    reasons += engine.troubles()
    devices = engine.devices()
    if not devices:
        reasons.append("no device was found")
    reasons += [f"the memory of {view.device.id} cannot be read" for view in devices if view.total <= 0]
    return reasons
