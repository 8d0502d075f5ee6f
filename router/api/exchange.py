"""One relayed request from its turn in the queue to its record: relay, replays, what is told when it breaks."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from starlette.types import Scope

from router.api.context import context_of
from router.api.cycle import downstream_of
from router.api.disconnect import ClientDisconnected, DisconnectWatch
from router.api.endpoints import Claim
from router.api.pulse import Pulse
from router.api.services import Services, Turn
from router.config import Settings
from router.core.types import Priority
from router.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotLoaded,
    RouterError,
    UpstreamFailed,
    UpstreamKeptFailing,
)
from router.proxy.answer import Answer
from router.proxy.detour import Untold
from router.proxy.dialect import ErrorInfo
from router.proxy.relay import Call, relay
from router.telemetry.records import RequestRecord, RequestStatus

_log = logging.getLogger("router.api")
_LONGEST_NAME = 100
_REPLAYS = 2
# A child that dies resets its connections a moment before its end is seen; a replay should not meet it again.
_VERDICT_SEC = 1.0
_PRIORITIES = {priority: priority.name.lower() for priority in Priority}


@dataclass(slots=True)
class Order:
    """A request that has been understood.

    Attributes:
        model: canonical name.
        endpoint: the route it came by, as it is counted.
        pings: its client waits for a stream, and may be told so by pings.
    """

    model: str
    priority: Priority
    endpoint: str
    claim: Claim
    call: Call
    pings: bool = False


def configured_model(settings: Settings, name: object) -> str:
    """The canonical name of the model a client asked for. Raises InvalidRequest, ModelNotFound."""
    if not isinstance(name, str) or not name:
        raise InvalidRequest("`model` is missing; it must be the name of a model, see GET /v1/models.", param="model")
    canonical = settings.canonical(name)
    if canonical is None:
        raise ModelNotFound(f"The model '{name[:_LONGEST_NAME]}' does not exist, see GET /v1/models.", param="model")
    return canonical


async def exchange(services: Services, order: Order, scope: Scope) -> None:
    """Carry out an order whose body has been read, and tell its client how it went, whatever happens.

    Raises ClientDisconnected when the client went away.
    """
    context, client = context_of(scope), downstream_of(scope)
    context.model = order.model
    talk = _Talk(services, order, Answer(client, context.dialect, context.request_id))
    started = services.engine.clock()
    status: RequestStatus = "server_error"
    try:
        with DisconnectWatch(client) as watch:
            await talk.hold(watch)
        status = _status_word(talk.answer.status)
    except RouterError as error:
        status = _status_word(error.status)
        if talk.answer.started:
            _log.warning("Request %s broke off: %s", context.request_id, error.message)
        talk.answer.fail(ErrorInfo.of(error))
    except (ClientDisconnected, asyncio.CancelledError):
        status = "cancelled"
        raise
    finally:
        if order.claim is Claim.SLOT:
            talk.record(status, started)


class _Talk:
    """What belongs to one exchange."""

    __slots__ = ("_order", "_services", "answer")

    def __init__(self, services: Services, order: Order, answer: Answer) -> None:
        self._services = services
        self._order = order
        self.answer = answer

    async def hold(self, watch: DisconnectWatch) -> None:
        """Until the whole answer has been handed over. Raises RouterError."""
        engine, order = self._services.engine, self._order
        if order.claim is not Claim.SLOT:
            if (upstream := engine.upstream(order.model)) is not None:
                await relay(upstream, order.call, self.answer, watch)
                return
            if order.claim is Claim.NOTHING:
                status = engine.view(order.model).status
                raise ModelNotLoaded(
                    f"Model '{order.model}' is {status}, and this does not load it. POST /v1/models/load does.",
                    param="model",
                )
        turn = engine.turn(order.model, order.priority)
        if not order.pings:
            await self._serve(turn, watch)
            return
        with Pulse(self.answer, every=self._services.settings.api.stream_ping_sec, note=lambda: _note(turn)):
            await self._serve(turn, watch)

    async def _serve(self, turn: Turn, watch: DisconnectWatch) -> None:
        """Take a slot and relay; again if the upstream dies before the client has received anything of its answer.

        An answer that is no more than untold is asked for once more as its client did.
        """
        order, tries = self._order, 0
        while True:
            try:
                with await turn.lease() as lease:
                    await relay(lease.upstream, order.call, self.answer, watch, lease)
            except Untold:
                order.call.detour = None
                continue
            except UpstreamFailed as error:
                tries += 1
                if self.answer.first_content is not None:
                    raise
                if tries > _REPLAYS:
                    message = f"The model's server broke off before it had answered, {tries} times in a row."
                    raise UpstreamKeptFailing(message) from error
            else:
                return
            await self._services.engine.wait_gone(order.model, lease.replica, timeout=_VERDICT_SEC)
            self._services.telemetry.request_replayed(order.model)

    def record(self, status: RequestStatus, started: float) -> None:
        order, tokens = self._order, self.answer.tap.tokens()
        self._services.telemetry.request_finished(
            RequestRecord(
                model=order.model,
                endpoint=order.endpoint,
                status=status,
                started=started,
                first_byte=self.answer.first_content,
                ended=self._services.engine.clock(),
                tokens_in=tokens.prompt,
                tokens_out=tokens.completion,
                priority=_PRIORITIES[order.priority],
                tokens_cached=tokens.cached,
                prompt_seconds=tokens.prompt_seconds,
                generation_seconds=tokens.predicted_seconds,
            )
        )


def _note(turn: Turn) -> str:
    place = turn.place()
    return "processing" if place is None else f"queue position {place.position}"


def _status_word(status: int) -> RequestStatus:
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "success"
