"""One relayed request from its grant to its record: lease, relay, what is told when it breaks, what is counted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from router.api.context import context_of
from router.api.disconnect import ClientDisconnected, DisconnectWatch
from router.api.endpoints import Claim
from router.api.services import Engine, Services
from router.config import Settings
from router.core.types import Priority
from router.errors import InvalidRequest, ModelNotFound, ModelNotLoaded, RouterError
from router.proxy.answer import Answer
from router.proxy.dialect import ErrorInfo, error_event
from router.proxy.relay import Call, relay
from router.proxy.usage import UsageTap
from router.telemetry.records import RequestRecord, RequestStatus

_log = logging.getLogger("router.api")
_LAST_WORDS_SEC = 5.0  # for a client that does not read
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Order:
    """A request that has been understood.

    Attributes:
        model: canonical name.
        endpoint: the route it came by, as it is counted.
    """

    model: str
    priority: Priority
    endpoint: str
    claim: Claim
    call: Call


def configured_model(settings: Settings, name: object) -> str:
    """The canonical name of the model a client asked for. Raises InvalidRequest, ModelNotFound."""
    if not isinstance(name, str) or not name:
        raise InvalidRequest("`model` is missing; it must be the name of a model, see GET /v1/models.", param="model")
    canonical = settings.canonical(name)
    if canonical is None:
        raise ModelNotFound(f"The model '{name[:_LONGEST_NAME]}' does not exist, see GET /v1/models.", param="model")
    return canonical


async def exchange(services: Services, order: Order, scope: Scope, receive: Receive, send: Send) -> None:
    """Carry out an order whose body has been read.

    Raises RouterError as long as the client has been told nothing, else says it in the stream and leaves the response
    incomplete. Raises ClientDisconnected when the client went away.
    """
    context_of(scope).model = order.model
    answer, tap = Answer(send), UsageTap()
    started = services.engine.clock()
    status: RequestStatus = "server_error"
    try:
        async with DisconnectWatch(receive, answer):
            await _passed(services.engine, order, answer, tap)
            await answer.end()
        status = _status_word(answer.status)
    except RouterError as error:
        status = _status_word(error.status)
        if not answer.started:
            raise
        await _break_off(answer, error, order.call)
    except (ClientDisconnected, asyncio.CancelledError):
        status = "cancelled"
        raise
    finally:
        if order.claim is Claim.SLOT:
            tokens = tap.tokens()
            services.telemetry.request_finished(
                RequestRecord(
                    model=order.model,
                    endpoint=order.endpoint,
                    status=status,
                    started=started,
                    first_byte=answer.first_content,
                    ended=services.engine.clock(),
                    tokens_in=tokens.prompt,
                    tokens_out=tokens.completion,
                    priority=order.priority.name.lower(),
                )
            )


async def _passed(engine: Engine, order: Order, answer: Answer, tap: UsageTap) -> None:
    if order.claim is not Claim.SLOT:
        if (upstream := engine.upstream(order.model)) is not None:
            await relay(upstream, order.call, answer, tap)
            return
        if order.claim is Claim.NOTHING:
            status = engine.view(order.model).status
            raise ModelNotLoaded(
                f"Model '{order.model}' is {status}, and this does not load it. POST /v1/models/load does.",
                param="model",
            )
    async with await engine.lease(order.model, order.priority) as lease:
        await relay(lease.upstream, order.call, answer, tap, lease)


async def _break_off(answer: Answer, error: RouterError, call: Call) -> None:
    _log.warning("Request %s broke off: %s", call.request_id, error.message)
    event = error_event(ErrorInfo.of(error), call.dialect, call.request_id)
    try:
        async with asyncio.timeout(_LAST_WORDS_SEC):
            await answer.break_off(event)
    except TimeoutError:
        _log.warning("Request %s: its client does not read, so it was not told", call.request_id)


def _status_word(status: int) -> RequestStatus:
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "success"
