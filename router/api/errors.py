"""Every error leaves the router in the dialect of its endpoint, with a request id."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import ALL_METHODS
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from router.api.context import context_of
from router.errors import InvalidRequest, MethodNotAllowed, RouterError, UnknownUrl
from router.proxy.dialect import ErrorInfo, error_body

_log = logging.getLogger("router.api")
# Parts of pydantic's locations that name where a value was found, not the value.
_PLACES = frozenset(("body", "query", "path", "header"))


class HeadersTooLarge(RouterError):
    """More request headers than the router reads."""

    status, type, code = 431, "invalid_request_error", "headers_too_large"


class TooManyConnections(RouterError):
    """One address has more than `api.max_connections_per_peer`."""

    status, type, code = 429, "rate_limit_error", "too_many_connections"


class HttpVersionNotSupported(RouterError):
    """Another HTTP than 1.0 and 1.1."""

    status, type, code = 505, "invalid_request_error", "http_version_not_supported"


class RequestTimeout(RouterError):
    """The request's head or body did not arrive in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


def response_to(error: RouterError | ErrorInfo, scope: Scope) -> Response:
    """The response that tells `error` to the client of this request."""
    info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error)
    context = context_of(scope)
    body = error_body(info, context.dialect, context.request_id)
    return Response(body, info.status, dict(info.headers), media_type="application/json")


def unexpected(scope: Scope, error: Exception) -> Response:
    """The response to a bug of ours; its traceback goes to the log and not to the client."""
    request_id = context_of(scope).request_id
    _log.error("Unexpected error in request %s", request_id, exc_info=error)
    return response_to(RouterError(f"Internal error. The router's log tells more under request {request_id}."), scope)


def add_error_handlers(app: FastAPI) -> None:
    """Take over from the framework's `{"detail": …}`."""
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)  # noqa: S101 - registered for this class alone
    return response_to(error, request.scope)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return response_to(UnknownUrl(f"Unknown request URL: {where}. The known ones are at /docs."), request.scope)
    if error.status_code == 405:
        allow = _methods_of(request)
        message = f"{where} is not allowed here; use {' or '.join(allow)}."
        return response_to(MethodNotAllowed(message, allow=allow), request.scope)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    code = HTTPStatus(error.status_code).name.lower()
    info = ErrorInfo(error.status_code, str(error.detail), kind, code, headers=dict(error.headers or {}))
    return response_to(info, request.scope)


def _methods_of(request: Request) -> list[str]:
    """All methods of a path. The framework names those of one route, but a path may have several."""
    routes = request.app.router.routes
    return [
        method
        for method in ALL_METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class alone
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return response_to(InvalidRequest("The body is not valid JSON."), request.scope)
    param = ".".join(str(part) for part in first["loc"] if part not in _PLACES)
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
    return response_to(InvalidRequest(message, param=param or None), request.scope)
