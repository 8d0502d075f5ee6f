"""The POST paths whose body names a model. Plain ASGI, since this is the hot path."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from router.api.endpoints import ENDPOINTS, Endpoint
from router.api.orders import Wish, carry_out
from router.api.services import Services
from router.api.targets import target

_RELAYED = tuple(endpoint for endpoint in ENDPOINTS if endpoint.model_in != "query")


class InferenceEndpoint:
    """The ASGI app of one path."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._endpoint = endpoint
        self._plain = self._wish(b"")

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # noqa: ARG002  ASGI's signature
        query = scope["query_string"]
        wish = self._wish(query) if query else self._plain
        return carry_out(self._services, wish, scope, receive)

    def _wish(self, query: bytes) -> Wish:
        path = self._endpoint.path
        return Wish(self._endpoint, target(path, query), route=path)


def direct(services: Services) -> dict[tuple[str, str], ASGIApp]:
    """The app of each call to one of these paths, by method and path."""
    return {
        (method, endpoint.path): InferenceEndpoint(services, endpoint)
        for endpoint in _RELAYED
        for method in endpoint.methods
    }


def routes(services: Services) -> list[BaseRoute]:
    """One route for each path of the table that takes a body with a model in it."""
    return [
        Route(endpoint.path, InferenceEndpoint(services, endpoint), methods=list(endpoint.methods))
        for endpoint in _RELAYED
    ]
