"""One relayed request from its turn in the queue to its record: relay, replays, what is told when it breaks."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable

import msgspec
from starlette.types import Scope

from router.api.body import Hold
from router.api.context import context_of
from router.api.disconnect import ClientDisconnected, DisconnectWatch
from router.api.endpoints import Claim
from router.api.pulse import Pulse
from router.api.services import Services, Turn
from router.config import Settings
from router.core.affinity import Marks
from router.core.types import Priority
from router.engine.ports import Upstream
from router.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotLoaded,
    RouterError,
    UpstreamFailed,
    UpstreamKeptFailing,
    UpstreamStalled,
)
from router.proxy.answer import Answer
from router.proxy.detour import Untold
from router.proxy.dialect import ErrorInfo
from router.proxy.downstream import Downstream
from router.proxy.pieces import Joint, Part, Pieces, Unjoinable
from router.proxy.relay import Call, relay
from router.telemetry.records import RequestRecord, RequestStatus
from router.wire.sink import RawHeaders

_log = logging.getLogger("router.api")
_LONGEST_NAME = 100
_REPLAYS = 2
# A child that dies resets its connections a moment before its end is seen; a replay should not meet it again.
_VERDICT_SEC = 1.0
_SLOT = Claim.SLOT  # looking up a member takes its time
_PRIORITIES = {priority: priority.name.lower() for priority in Priority}


class Order(msgspec.Struct):
    """A request that has been understood. A struct, since it is made in a fraction of a dataclass's time.

    Attributes:
        model: canonical name.
        endpoint: the route it came by, as it is counted.
        pings: its client waits for a stream, and may be told so by pings.
        pieces: it is to be asked for in these, each in a slot of its own.
        width: slots it takes.
        marks: of the beginnings of its text; empty where there is one replica at most.
    """

    model: str
    priority: Priority
    endpoint: str
    claim: Claim
    call: Call
    pings: bool = False
    pieces: Pieces | None = None
    width: int = 1
    marks: Marks = ()


def configured_model(settings: Settings, name: object) -> str:
    """The canonical name of the model a client asked for. Raises InvalidRequest, ModelNotFound."""
    if not isinstance(name, str) or not name:
        raise InvalidRequest("`model` is missing; it must be the name of a model, see GET /v1/models.", param="model")
    canonical = settings.canonical(name)
    if canonical is None:
        raise ModelNotFound(f"The model '{name[:_LONGEST_NAME]}' does not exist, see GET /v1/models.", param="model")
    return canonical


async def exchange(services: Services, order: Order, scope: Scope, room: Hold, client: Downstream) -> None:
    """Carry out an order whose body has been read, and tell its client how it went, whatever happens.

    Answers that have to be kept for a while are counted in `room`.

    Raises ClientDisconnected when the client went away.
    """
    context = context_of(scope)
    context.model = order.model
    talk = _Talk(services, order, Answer(client, context.dialect, context.request_id), room)
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
        if order.claim is _SLOT:
            talk.record(status, started, context.caller.name)


class _Talk:
    """What belongs to one exchange."""

    __slots__ = ("_order", "_room", "_services", "answer")

    def __init__(self, services: Services, order: Order, answer: Answer, room: Hold) -> None:
        self._services = services
        self._order = order
        self._room = room
        self.answer = answer

    def hold(self, watch: DisconnectWatch) -> Awaitable[None]:
        """Until the whole answer has been handed over. Raises RouterError."""
        engine, order = self._services.engine, self._order
        if order.claim is not _SLOT:
            if (upstream := engine.upstream(order.model)) is not None:
                return self._ask(upstream, watch)
            if order.claim is Claim.NOTHING:
                status = engine.view(order.model).status
                raise ModelNotLoaded(
                    f"Model '{order.model}' is {status}, and this does not load it. POST /v1/models/load does.",
                    param="model",
                )
        turn = engine.turn(order.model, order.priority, width=order.width, marks=order.marks)
        if order.pieces is not None:
            return self._serve_pieces(turn, order.pieces, watch)
        if order.pings:
            return self._serve_with_pings(turn, watch)
        return self._serve(turn, order.call, self.answer, watch)

    async def _ask(self, upstream: Upstream, watch: DisconnectWatch) -> None:
        """Relay a call that takes no slot, so that nobody else sees to it that its answer begins."""
        limit, loop = self._services.settings.system.request_timeout_sec, asyncio.get_running_loop()

        def give_up_unless_begun() -> None:
            if not self.answer.started:
                deadline.reschedule(loop.time())

        try:
            async with asyncio.timeout(None) as deadline:
                late = loop.call_later(limit, give_up_unless_begun)
                try:
                    await relay(upstream, self._order.call, self.answer, watch)
                finally:
                    late.cancel()
        except TimeoutError:
            message = f"Model '{self._order.model}' did not answer within {limit:g} s (request_timeout_sec)."
            raise UpstreamStalled(message) from None

    async def _serve_with_pings(self, turn: Turn, watch: DisconnectWatch) -> None:
        with Pulse(self.answer, every=self._services.settings.api.stream_ping_sec, note=lambda: _note(turn)):
            await self._serve(turn, self._order.call, self.answer, watch)

    async def _serve_pieces(self, turn: Turn, pieces: Pieces, watch: DisconnectWatch) -> None:
        """One piece after another; the first error is the answer to all of them."""
        joint = Joint(pieces)
        try:
            for piece in pieces:
                part = Part(self._room.grow)
                answer, call = self.answer.of_piece(part), msgspec.structs.replace(self._order.call, body=piece.body)
                await self._serve(turn, call, answer, watch, more=not piece.last)
                if part.refusal is not None:
                    raise part.refusal
                if part.status >= 400:
                    await self._tell(part.status, part.headers, [bytes(part.body)], watch)
                    return
                joint.take(part.body, piece)
        except Unjoinable as error:
            raise UpstreamFailed(f"The model's server gave a part of the answer that does not fit: {error}.") from error
        finally:
            turn.leave()
        await self._tell(part.status, part.headers, joint.chunks(), watch)

    async def _tell(self, status: int, headers: RawHeaders, chunks: list[bytes], watch: DisconnectWatch) -> None:
        """Say a document, as fast as the client takes it."""
        own = (b"content-length", b"%d" % sum(map(len, chunks)))
        ready = asyncio.Event()
        ready.set()
        watch.on_full, watch.on_ready = ready.clear, ready.set
        try:
            self.answer.start(status, [*(header for header in headers if header[0] != own[0]), own], streaming=False)
            for chunk in chunks:
                await ready.wait()
                self.answer.write(chunk)
            self.answer.end()
        finally:
            watch.on_full = watch.on_ready = None

    async def _serve(
        self, turn: Turn, call: Call, answer: Answer, watch: DisconnectWatch, *, more: bool = False
    ) -> None:
        """Take a slot and relay; again if the upstream dies before the client has received anything of its answer.

        With `more` to come the next slot is asked for before this one is given back.
        An answer that is no more than untold is asked for once more as its client did.
        """
        order, tries = self._order, 0
        while True:
            try:
                with await turn.lease() as lease:
                    await relay(lease.upstream, call, answer, watch, lease)
                    if more and answer.status < 400:
                        turn.renew()
            except Untold:
                call.detour = None
                continue
            except UpstreamFailed as error:
                tries += 1
                if answer.first_content is not None:
                    raise
                if tries > _REPLAYS:
                    message = f"The model's server broke off before it had answered, {tries} times in a row."
                    raise UpstreamKeptFailing(message) from error
            else:
                return
            await self._services.engine.wait_gone(order.model, lease.replica, timeout=_VERDICT_SEC)
            self._services.telemetry.request_replayed(order.model)

    def record(self, status: RequestStatus, started: float, key: str) -> None:
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
                key=key,
            )
        )


def _note(turn: Turn) -> str:
    """What a ping says: where the request stands, for how long yet, and why."""
    place = turn.place()
    if place is None:
        return "processing"
    told = f"queue position {place.position}, about {max(1, math.ceil(place.expected_wait))} s"
    why = [word for word in (place.obstacle, place.shortage) if word]
    return ", ".join([told, *why])


def _status_word(status: int) -> RequestStatus:
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "success"
