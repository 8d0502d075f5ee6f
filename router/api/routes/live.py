"""Server-sent events: changes of models, and the main gauges each second.

The streams end when the keys change, and when `StatusBus.close()` is called, which the server does as soon as it is
told to exit. sse-starlette's own watch for that (process-wide, and only where uvicorn holds the signal handlers) is not
relied on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from router.api.dependencies import ServicesDep
from router.api.disconnect import ClientDisconnected
from router.api.failures import ANYWHERE, failures
from router.api.figures import LiveGauges
from router.api.schemas import WallClock
from router.api.services import Services
from router.api.snapshot import full_status, model_update
from router.config import Keys

PING_SEC = 15.0
SEND_TIMEOUT_SEC = 30.0  # a client that takes nothing for so long is gone
_SEP = "\n"

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The stream"},
    **failures(*ANYWHERE),
}

router = APIRouter(tags=["live"], responses=_STREAM)


class EventStream(EventSourceResponse):
    """An EventSourceResponse with our manners: a comment each 15 s, and no wait without an end."""

    def __init__(self, events: AsyncGenerator[ServerSentEvent, None]) -> None:
        super().__init__(
            events,
            ping=PING_SEC,
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep=_SEP),
            sep=_SEP,
            send_timeout=SEND_TIMEOUT_SEC,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            raise ClientDisconnected from None


@router.get("/v1/models/status/stream", response_class=EventSourceResponse)
async def status_stream(services: ServicesDep) -> EventStream:
    """`full_status` first, then `model_update` at each change.

    A client that is too slow for the updates gets a fresh `full_status` in their place.
    """
    return EventStream(status_events(services))


@router.get("/metrics/stream", response_class=EventSourceResponse)
async def metrics_stream(services: ServicesDep) -> EventStream:
    """`metrics` each second: slots, queues, states and memory."""
    return EventStream(gauge_events(services))


async def status_events(services: Services) -> AsyncGenerator[ServerSentEvent, None]:
    admitted = _admission(services)
    with services.status.subscribe() as changes:
        async for view in changes:
            if _admission(services) != admitted:
                return
            if view is None:
                yield _event("full_status", full_status(services))
            else:
                yield _event("model_update", model_update(services.engine, view))


async def gauge_events(services: Services) -> AsyncGenerator[ServerSentEvent, None]:
    sampler, engine = services.telemetry.sampler, services.engine
    admitted, closed = _admission(services), False
    while not closed and _admission(services) == admitted:
        now = engine.clock()
        yield _event("metrics", LiveGauges.of(sampler.at(engine), WallClock(now)))
        closed = await services.status.wait_closed(sampler.until_next(engine.clock()))


def _admission(services: Services) -> tuple[Keys, bool]:
    """By what the listeners were let in. A stream has no end of its own, so it ends when that has changed."""
    return services.settings.keys, services.settings.api.allow_unauthenticated


def _event(name: str, data: BaseModel) -> ServerSentEvent:
    return ServerSentEvent(data.model_dump_json(exclude_none=True), event=name, sep=_SEP)
