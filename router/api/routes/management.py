"""Load, eject and reset models, and tell their states."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from router.api.dependencies import ModelInPath, ServicesDep, body_of
from router.api.exchange import configured_model
from router.api.failures import ANYWHERE, READING, failures
from router.api.schemas import (
    EjectRequest,
    FailedModels,
    FullStatus,
    LoadRequest,
    ModelAction,
    ModelStatus,
    ReloadReport,
    StreamTicket,
    request_body,
)
from router.api.snapshot import full_status, model_status
from router.api.tickets import LIFETIME_SEC
from router.core.types import Status
from router.errors import ConfigRefused

router = APIRouter(tags=["management"], responses=failures(*ANYWHERE))


@router.get("/v1/models/status", response_model_exclude_none=True)
async def all_status(services: ServicesDep) -> FullStatus:
    """The state of every model."""
    return full_status(services)


@router.get("/v1/models/failed", response_model_exclude_none=True)
async def failed(services: ServicesDep) -> FailedModels:
    """The models that could not be loaded or died, with the reason."""
    models = full_status(services).models
    return FailedModels(models={name: model for name, model in models.items() if model.status is Status.FAILED})


@router.get("/v1/models/{alias:path}/status", response_model_exclude_none=True, responses=failures(404))
async def one_status(model: ModelInPath, services: ServicesDep) -> ModelStatus:
    """The state of one model."""
    return model_status(services.engine, services.engine.view(model))


@router.post(
    "/v1/models/load",
    responses={202: {"model": ModelAction, "description": "It is on its way"}, **failures(404, *READING)},
    openapi_extra=request_body(LoadRequest),
)
async def load(
    body: Annotated[LoadRequest, Depends(body_of(LoadRequest))], services: ServicesDep, response: Response
) -> ModelAction:
    """Load a model. Answers 202 at once, or 200 if it is ready; with `wait`, when it is ready or the wait is over."""
    model = configured_model(services.settings, body.model)
    services.engine.load(model)
    if body.wait:
        await services.engine.wait_ready(model, timeout=services.settings.system.queue_timeout_sec)
    status = services.engine.view(model).status
    if status is not Status.READY:
        response.status_code = 202
    return ModelAction(model=model, status=status)


@router.post("/v1/models/eject", responses=failures(404, *READING), openapi_extra=request_body(EjectRequest))
async def eject(body: Annotated[EjectRequest, Depends(body_of(EjectRequest))], services: ServicesDep) -> ModelAction:
    """Unload a model once what runs on it has ended, or at once with `force`; answers when it is off.

    It also answers when the model is ready again, because somebody has asked to load it meanwhile. A client that does
    not wait for the answer changes nothing.
    """
    model = configured_model(services.settings, body.model)
    await services.engine.eject(model, force=body.force)
    return ModelAction(model=model, status=services.engine.view(model).status)


@router.post("/v1/models/{alias:path}/reset", responses=failures(404))
async def reset(model: ModelInPath, services: ServicesDep) -> ModelAction:
    """Forget a model's failures, so that the next request tries to load it."""
    services.engine.reset(model)
    return ModelAction(model=model, status=services.engine.view(model).status)


@router.post("/v1/reload", responses=failures(400, 503))
async def reload(services: ServicesDep) -> ReloadReport:
    """Read the configuration anew. What has not changed is left alone; a configuration with mistakes changes nothing.

    A client that does not wait for the answer changes nothing.
    """
    if services.reload is None:
        raise ConfigRefused("This router was not started from a configuration that can be read anew.")
    return ReloadReport.model_validate(asdict(await services.reload()))


@router.post("/v1/stream-ticket", responses=failures(503))
async def stream_ticket(services: ServicesDep) -> StreamTicket:
    """A ticket for `?ticket=` of the status streams, since a browser's EventSource sends no header."""
    return StreamTicket(ticket=services.tickets.issue(), expires_in=LIFETIME_SEC)
