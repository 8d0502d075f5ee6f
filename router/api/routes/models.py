"""Which models there are, and what answers at `/`. Never waits for a model."""

from __future__ import annotations

import re
import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response

from router import __version__
from router.api.exchange import configured_model
from router.api.failures import ANYWHERE, failures
from router.api.figures import MemoryEstimate
from router.api.services import Services
from router.config import RESERVED, RESERVED_ENDINGS

router = APIRouter(tags=["models"], responses=failures(*ANYWHERE))
_STARTED = int(time.time())


class ModelEntry(BaseModel):
    """A model as OpenAI's SDKs know it, with its further names, its state, how many replicas serve, and its memory."""

    id: str
    object: Literal["model"] = "model"
    created: int = _STARTED
    owned_by: str = "llama-router"
    aliases: list[str]
    status: str
    replicas: int
    memory: MemoryEstimate


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Greeting(BaseModel):
    name: str = "llama-router"
    version: str = __version__
    docs: str = "/docs"
    models: str = "/v1/models"


@router.get("/", summary="What this is")
async def greeting() -> Greeting:
    return Greeting()


@router.get("/v1/models", summary="The configured models")
@router.get("/models", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    services: Services = request.app.state.services
    return ModelList(data=[_entry(services, name) for name in services.engine.names])


class _ModelName(Convertor[str]):
    """What stands below `/v1/models/` and is no route of its own, so that a GET on those others is a 405."""

    regex = rf"(?!(?:{'|'.join(map(re.escape, RESERVED))})$)(?!.*(?:{'|'.join(map(re.escape, RESERVED_ENDINGS))})$).+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model_name", _ModelName())


@router.get("/v1/models/{model:model_name}", summary="One model", responses=failures(404))
async def retrieve_model(model: str, request: Request) -> ModelEntry:
    services: Services = request.app.state.services
    return _entry(services, configured_model(services.settings, model))


@router.head("/", include_in_schema=False)
@router.head("/v1/models", include_in_schema=False)
@router.head("/models", include_in_schema=False)
async def nothing() -> Response:
    """Clients ask with HEAD whether somebody is there."""
    return Response()


def _entry(services: Services, name: str) -> ModelEntry:
    aliases = list(services.settings.models[name].aliases)
    view = services.engine.view(name)
    memory = MemoryEstimate.of(view.estimate)
    return ModelEntry(id=name, aliases=aliases, status=view.status.value, replicas=view.ready_replicas, memory=memory)
