"""The outermost layers: request id and access log, and inside of CORS the boundary that no exception passes."""

from __future__ import annotations

import json
import logging
import os
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.context import RequestContext, attach, context_of
from router.api.disconnect import ClientDisconnected
from router.api.endpoints import dialect_of
from router.api.errors import HeadersTooLarge, response_to, unexpected
from router.api.paths import without_trailing_slash
from router.errors import RouterError
from router.proxy.dialect import Dialect

_access = logging.getLogger("router.access")
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_PLAIN = re.compile(r"[\x21\x23-\x7e]+")
_MOST_HEADER_BYTES = 16 * 1024
_CLIENT_GONE = 499  # nginx's word for it; never sent


class AbortFilter(logging.Filter):
    """For the logger `uvicorn.error`: drops its complaint about responses that were left incomplete on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "ASGI callable returned without completing response."


class Identity:
    """Gives each request its id and its line in the access log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = without_trailing_slash(scope)
        context = RequestContext(_request_id(scope), dialect_of(scope["path"]), time.perf_counter())
        attach(scope, context)

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                _add_request_id(message, context)
            elif message["type"] == "http.response.body":
                context.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            _log_access(scope, context)


class Boundary:
    """Turns every exception into an answer. Pure ASGI, so that a client's disconnect stays visible to the handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        try:
            _check_size(scope)
            await self._app(scope, receive, send)
        except ClientDisconnected:
            context.status = _CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the outermost boundary
            # A response under way is left incomplete, which aborts the connection.
            response = response_to(error, scope) if isinstance(error, RouterError) else unexpected(scope, error)
            if not context.status:
                await response(scope, receive, send)


def _check_size(scope: Scope) -> None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEADER_BYTES:
        raise HeadersTooLarge(f"The request has more than {_MOST_HEADER_BYTES // 1024} KB of headers.")


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()


def _add_request_id(message: Message, context: RequestContext) -> None:
    """Nothing inside says these headers: the proxy drops those of a child."""
    told = context.request_id.encode("ascii")
    added = [(b"x-request-id", told)]
    if context.dialect is Dialect.ANTHROPIC:
        added.append((b"request-id", told))
    message["headers"] = [*message.get("headers", ()), *added]


def _log_access(scope: Scope, context: RequestContext) -> None:
    if not _access.isEnabledFor(logging.INFO):
        return
    milliseconds = (time.perf_counter() - context.started) * 1000
    line = (
        f"method={_plain(scope['method'])} path={_plain(scope['path'])} status={context.status} ms={milliseconds:.1f} "
        f"model={_plain(context.model or '-')} bytes={context.sent} id={context.request_id}"
    )
    # Without the walk up the stack that `info` does to find its caller.
    _access.handle(logging.LogRecord(_access.name, logging.INFO, "", 0, line, None, None))


def _plain(text: str) -> str:
    """As it is when it is one printable word, else quoted with everything odd escaped."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
