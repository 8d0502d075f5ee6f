"""How a request becomes an order, the same way on whatever route it came."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Receive, Scope

from router.api.beginnings import text_marks
from router.api.body import MIB, read_body
from router.api.condense import condensed
from router.api.context import context_of
from router.api.cycle import downstream_of
from router.api.endpoints import Claim, Endpoint
from router.api.envelope import Envelope, parse_json
from router.api.exchange import Order, configured_model, exchange
from router.api.form import field_of
from router.api.media import refuse_remote_media
from router.api.named import named
from router.api.overheard import overheard
from router.api.priority import priority_of
from router.api.services import Services
from router.api.width import slots_taken
from router.config import Settings
from router.errors import BodyTooLarge, UnsupportedByModel
from router.proxy.assembly import Assembly, plan
from router.proxy.pieces import cut
from router.proxy.relay import Call


@dataclass(frozen=True, slots=True)
class Wish:
    """A call as its request line tells it, before its body is read.

    Attributes:
        endpoint: what the call is to the child.
        target: path and query for the child.
        route: the route by which it came, as it is counted.
        model: as the path or the query names it; None = the body does.
    """

    endpoint: Endpoint
    target: str
    route: str
    model: str | None = None


async def carry_out(services: Services, wish: Wish, scope: Scope, receive: Receive) -> None:
    """Read the body, understand it, and carry out what it asks for. Raises what `read_body` and `exchange` raise."""
    with services.budget.hold() as hold:
        body = await read_body(scope, receive, hold, limit=services.settings.api.max_body_mb * MIB)
        settings = services.settings  # those that hold now: a body may take its time
        whole = len(body) <= settings.api.max_text_mb * MIB
        if whole and wish.endpoint.model_in == "json":
            envelope, text = parse_json(body), body
        else:
            envelope, text = await _envelope(settings, wish.endpoint, scope, body)
        order, client = _order(settings, wish, scope, body, envelope), downstream_of(scope)
        if settings.models[order.model].has_projector and not settings.api.allow_remote_media:
            refuse_remote_media(text)
        if whole:
            order.pieces = cut(wish.endpoint.path, body)
        if settings.api.log_prompts and order.claim is Claim.SLOT:
            with overheard(client, context_of(scope).request_id, order.model, body) as ear:
                await exchange(services, order, scope, hold, ear)
        else:
            await exchange(services, order, scope, hold, client)


def _order(settings: Settings, wish: Wish, scope: Scope, body: bytes, envelope: Envelope) -> Order:
    endpoint = wish.endpoint
    model = configured_model(settings, envelope.model if wish.model is None else wish.model)
    if endpoint.generates and settings.models[model].writes_no_text:
        raise UnsupportedByModel(
            f"Model '{model}' writes no text: its flags start it for embedding or ranking only.", param="model"
        )
    headers = named(scope)
    return Order(
        model=model,
        priority=priority_of(headers, envelope.service_tier),
        endpoint=wish.route,
        claim=endpoint.claim,
        call=Call(
            method=scope["method"],
            target=wish.target,
            headers=headers,
            body=body,
            content_type="application/json" if endpoint.model_in == "json" else None,
            stream=envelope.stream,
            detour=_detour(endpoint, envelope, body),
        ),
        pings=envelope.stream and endpoint.generates,
        marks=text_marks(body) if endpoint.generates and settings.models[model].max_replicas > 1 else (),
        width=slots_taken(endpoint, body, envelope.n, settings.slots(model)),
    )


async def _envelope(settings: Settings, endpoint: Endpoint, scope: Scope, body: bytes) -> tuple[Envelope, bytes]:
    """Of what takes a while, in steps; and what of the body may be JSON, condensed."""
    if endpoint.model_in == "form":
        content_type = named(scope).get(b"content-type", b"")
        return Envelope(await field_of(body, content_type.decode("latin-1"), "model")), b""
    text, limit = await condensed(body), settings.api.max_text_mb
    if endpoint.model_in == "json":
        if len(text) > limit * MIB:
            message = f"Beside base64 without line breaks the body has more than {limit} MB of JSON (api.max_text_mb)."
            raise BodyTooLarge(message)
        return parse_json(text), text
    # What takes a slot may well stream; what that means is the child's business.
    return Envelope(None, stream=endpoint.claim is Claim.SLOT), text


def _detour(endpoint: Endpoint, envelope: Envelope, body: bytes) -> Assembly | None:
    """A child does not notice in time that the client of a document has left, see `proxy.assembly`."""
    if envelope.stream or not endpoint.generates:
        return None
    return plan(endpoint.path, body, n=envelope.n, max_tokens=envelope.max_tokens)
