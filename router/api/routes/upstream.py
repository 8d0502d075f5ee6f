"""The way to a particular child: `?model=` on its control paths, and `/upstream/{alias}/…` for anything it has."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from router.api.body import MIB, read_body
from router.api.context import context_of
from router.api.endpoints import ENDPOINTS, dialect_of
from router.api.exchange import Order, configured_model, exchange
from router.api.priority import priority_of
from router.api.services import Services
from router.api.targets import target
from router.config import Settings
from router.errors import Forbidden, ModelNotFound, UnknownUrl
from router.proxy.relay import Call

_PREFIX = "/upstream"


class ControlEndpoint:
    """The ASGI app of a control path: `GET /props?model=…` and its like."""

    def __init__(self, services: Services, path: str) -> None:
        self._services = services
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = Request(scope).query_params.get("model")
        wish = _Wish(model, self._path, endpoint=self._path, own=frozenset(("model", "ticket")))
        await _relay(self._services, wish, scope, receive, send)


class ControlRelay(Response):
    """A control call as the response of an ordinary handler, for a path that is the router's own without `?model=`."""

    def __init__(self, services: Services, path: str) -> None:
        super().__init__()
        self._app = ControlEndpoint(services, path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def relay_control(services: Services, model: str, method: str, path: str, request: Request) -> Response:
    """The response that relays this request to the child of a model, e.g. `GET /metrics?model=…`.

    Raises ModelNotFound.
    """
    configured_model(services.settings, model)
    assert (method, path) == (request.method, request.scope["path"])  # noqa: S101 - it is this request that is relayed
    return ControlRelay(services, path)


class UpstreamEndpoint:
    """The ASGI app of `/upstream/{alias}/{path}`. The longest alias that fits wins, since aliases may hold slashes."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = scope["path"].removeprefix(_PREFIX + "/")
        model, path = _split(self._services.settings, rest)
        _check_path(path, scope["method"], has_key=self._services.settings.api_key is not None)
        context_of(scope).dialect = dialect_of(path)
        wish = _Wish(model, path, endpoint=_PREFIX, own=frozenset(("ticket",)))
        await _relay(self._services, wish, scope, receive, send)


def _split(settings: Settings, rest: str) -> tuple[str, str]:
    """`org/model/v1/completions` -> its model's canonical name and `/v1/completions`."""
    parts = rest.split("/")
    for count in range(len(parts), 0, -1):
        canonical = settings.canonical("/".join(parts[:count]))
        if canonical is not None:
            return canonical, "/" + "/".join(parts[count:])
    raise ModelNotFound(f"No model's name begins '{rest[:100]}', see GET /v1/models.", param="model")


def _check_path(path: str, method: str, *, has_key: bool) -> None:
    parts = [part for part in path.split("/") if part]
    if any(part in {".", ".."} for part in parts):
        raise UnknownUrl("A path below /upstream must not hold `.` or `..`.")
    if method == "POST" and parts[:1] == ["slots"] and not has_key:
        raise Forbidden("Slot actions read and write files; set API_KEY to allow them.")


@dataclass(frozen=True, slots=True)
class _Wish:
    """A call to a child, before its body is read; `own` are query fields that are not the child's."""

    model: object
    path: str
    endpoint: str
    own: frozenset[str]


async def _relay(services: Services, wish: _Wish, scope: Scope, receive: Receive, send: Send) -> None:
    """A POST always takes a slot; a GET only where there is no ready replica yet."""
    leased = scope["method"] == "POST"
    context = context_of(scope)
    with services.budget.hold() as hold:
        body = await read_body(scope, receive, hold, limit=services.settings.api.max_body_mb * MIB)
        order = Order(
            model=configured_model(services.settings, wish.model),
            priority=priority_of(scope["headers"]),
            endpoint=wish.endpoint,
            leased=leased,
            call=Call(
                method=scope["method"],
                target=target(wish.path, scope["query_string"], dropped=wish.own),
                headers=scope["headers"],
                body=body,
                dialect=context.dialect,
                request_id=context.request_id,
                stream=leased,
            ),
        )
        await exchange(services, order, scope, receive, send)


def routes(services: Services) -> list[BaseRoute]:
    """Control paths that name their model in the query, and everything below `/upstream`."""
    found: list[BaseRoute] = [
        Route(endpoint.path, ControlEndpoint(services, endpoint.path), methods=list(endpoint.methods))
        for endpoint in ENDPOINTS
        if endpoint.model_in == "query"
    ]
    return [*found, Route(_PREFIX + "/{rest:path}", UpstreamEndpoint(services), methods=["GET", "POST"])]
