"""The POST paths whose body names a model: read in, routed, relayed. Plain ASGI, since this is the hot path."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from router.api.body import MIB, Envelope, parse_json, read_body
from router.api.context import context_of
from router.api.endpoints import ENDPOINTS, Endpoint
from router.api.exchange import Order, configured_model, exchange
from router.api.form import field_of
from router.api.priority import priority_of
from router.api.services import Services
from router.api.targets import target
from router.errors import UnsupportedByModel
from router.proxy.relay import Call


class InferenceEndpoint:
    """The ASGI app of one path."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._endpoint = endpoint
        self._limit = services.settings.api.max_body_mb * MIB

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._services.budget.hold() as hold:
            body = await read_body(scope, receive, hold, limit=self._limit)
            await exchange(self._services, self._order(scope, body), scope, receive, send)

    def _order(self, scope: Scope, body: bytes) -> Order:
        context, endpoint = context_of(scope), self._endpoint
        as_json = endpoint.model_in == "json"
        envelope = parse_json(body) if as_json else _form_envelope(scope, body)
        model = configured_model(self._services.settings, envelope.model)
        if endpoint.generates and self._services.settings.models[model].writes_no_text:
            raise UnsupportedByModel(
                f"Model '{model}' writes no text: its flags start it for embedding or ranking only.", param="model"
            )
        return Order(
            model=model,
            priority=priority_of(scope["headers"], envelope.service_tier),
            endpoint=endpoint.path,
            leased=endpoint.leased,
            call=Call(
                method="POST",
                target=target(endpoint.path, scope["query_string"]),
                headers=scope["headers"],
                body=body,
                dialect=context.dialect,
                request_id=context.request_id,
                content_type="application/json" if as_json else None,
                stream=envelope.stream,
            ),
        )


def _form_envelope(scope: Scope, body: bytes) -> Envelope:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return Envelope(field_of(body, content_type.decode("latin-1"), "model"), stream=False, service_tier=None)


def routes(services: Services) -> list[BaseRoute]:
    """One route for each path of the table that takes a body with a model in it."""
    return [
        Route(endpoint.path, InferenceEndpoint(services, endpoint), methods=list(endpoint.methods))
        for endpoint in ENDPOINTS
        if endpoint.model_in != "query"
    ]
