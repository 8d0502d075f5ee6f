"""The POST paths whose body names a model. Plain ASGI, since this is the hot path."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from router.api.endpoints import ENDPOINTS, Endpoint
from router.api.orders import Wish, carry_out
from router.api.services import Services
from router.api.targets import target


class InferenceEndpoint:
    """The ASGI app of one path."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._endpoint.path
        wish = Wish(self._endpoint, target(path, scope["query_string"]), route=path)
        await carry_out(self._services, wish, scope, receive, send)


def routes(services: Services) -> list[BaseRoute]:
    """One route for each path of the table that takes a body with a model in it."""
    return [
        Route(endpoint.path, InferenceEndpoint(services, endpoint), methods=list(endpoint.methods))
        for endpoint in ENDPOINTS
        if endpoint.model_in != "query"
    ]
