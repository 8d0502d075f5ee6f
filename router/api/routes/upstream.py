"""The way to a particular child: `?model=` on its control paths, and `/upstream/{alias}/…` for anything it has."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from router.api.context import context_of, speak
from router.api.endpoints import ENDPOINTS, Endpoint, dialect_of, endpoint_of_child
from router.api.needs import need_of_child
from router.api.orders import Wish, carry_out
from router.api.services import Services
from router.api.targets import target
from router.config import Settings
from router.errors import Forbidden, ModelNotFound, UnknownUrl

_PREFIX = "/upstream"
_OURS = frozenset(("model", "ticket"))  # query fields that are not the child's


class ControlEndpoint:
    """The ASGI app of a control path: `GET /props?model=…` and its like."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        model = Request(scope).query_params.get("model", "")
        path = self._endpoint.path
        wish = Wish(self._endpoint, target(path, scope["query_string"], dropped=_OURS), route=path, model=model)
        await carry_out(self._services, wish, scope, receive)


class ControlRelay(Response):
    """A control call as the response of an ordinary handler, for a path that is the router's own without `?model=`."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        super().__init__()
        self._app = ControlEndpoint(services, endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class UpstreamEndpoint:
    """The ASGI app of `/upstream/{alias}/{path}`. The longest alias that fits wins, since aliases may hold slashes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._most_parts: int
        services.follow(self._adopt)

    def _adopt(self, settings: Settings) -> None:
        self._most_parts = max((name.count("/") + 1 for name in settings.known_names), default=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        settings, method = self._services.settings, scope["method"]
        model, path = _split(settings, scope["path"].removeprefix(_PREFIX + "/"), self._most_parts)
        caller = context_of(scope).caller
        caller.check(need_of_child(method, path))
        _check_path(path, method, has_key=bool(caller.name))
        speak(scope, dialect_of(path))
        wish = Wish(endpoint_of_child(method, path), target(path, scope["query_string"]), route=_PREFIX, model=model)
        await carry_out(self._services, wish, scope, receive)


def _split(settings: Settings, rest: str, most_parts: int) -> tuple[str, str]:
    """`org/model/v1/completions` -> its model's canonical name, of so many parts at most, and `/v1/completions`."""
    parts = rest.split("/")
    for count in range(min(len(parts), most_parts), 0, -1):
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


def routes(services: Services) -> list[BaseRoute]:
    """Control paths that name their model in the query, and everything below `/upstream`."""
    found: list[BaseRoute] = [
        Route(endpoint.path, ControlEndpoint(services, endpoint), methods=list(endpoint.methods))
        for endpoint in ENDPOINTS
        if endpoint.model_in == "query"
    ]
    return [*found, Route(_PREFIX + "/{rest:path}", UpstreamEndpoint(services), methods=["GET", "POST"])]
