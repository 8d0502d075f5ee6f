"""What every request meets first and last: its id, who may come in, the answer to any exception, the access log."""

from __future__ import annotations

import json
import re
import time
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from router.api.access import Access
from router.api.context import RequestContext, attach, context_of, fresh_id
from router.api.cors import Cors
from router.api.cycle import MOST_HEAD, Cycle, cycle_of
from router.api.disconnect import ClientDisconnected
from router.api.endpoints import dialect_of
from router.api.errors import HeadersTooLarge, response_to, unexpected
from router.api.forwarding import Proxies
from router.api.named import named
from router.api.paths import drop_trailing_slash
from router.api.refusal import reason_of
from router.api.routing import Routing
from router.api.services import Services
from router.config import Settings
from router.errors import AuthenticationFailed, RouterError
from router.telemetry.access_log import AccessLog

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_PLAIN = re.compile(r"[\x21\x23-\x7e]+")
_LONGEST_PATH = 256  # characters of it that are logged; no dialect depends on more. Caches keep what clients make up
_dialect_of = lru_cache(maxsize=256)(dialect_of)
_MOST_HEADERS = 128
_CLIENT_GONE = 499  # nginx's word for it; never sent


class Front:
    """The outermost app. Served by `HttpProtocol` alone, since it gives what it has to say to the request's cycle.

    CORS comes before the rules of access, as preflights carry no key, and its headers are on every error too.
    """

    def __init__(self, routing: Routing, services: Services, access_log: AccessLog | None) -> None:
        self._routing = routing
        self._services = services
        self._access: Access
        self._has_keys: bool
        self._cors: Cors | None
        proxies = services.settings.api.forwarded_allow_ips
        self._proxies = Proxies(proxies) if proxies else None
        self._log = access_log
        self._refused = services.telemetry.connections.refused
        services.follow(self._adopt)

    def _adopt(self, settings: Settings) -> None:
        origins = settings.api.cors_origins
        self._access = Access(self._services)
        self._has_keys = bool(settings.keys.clients)
        self._cors = Cors(origins) if origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._proxies is not None:
            self._proxies.believe(scope)
        drop_trailing_slash(scope)
        cycle = cycle_of(scope)
        context = RequestContext(_request_id(scope), _dialect_of(scope["path"][:_LONGEST_PATH]), time.perf_counter())
        attach(scope, context)
        try:
            if self._cors is not None:
                if (preflight := self._cors.preflight(scope)) is not None:
                    await preflight(scope, receive, send)
                    return
                cycle.lines += self._cors.lines(scope["headers"])
            _check_size(cycle)
            app, need = self._routing(scope)
            context.caller = self._access.check(scope, need)
            await app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the outermost boundary
            await _tell(error, scope, receive, send)
        finally:
            if cycle.status >= 400 and not context.model:  # else it has come as far as a model
                reason = reason_of(cycle.status, scope, keys=self._has_keys)
                if reason is not None:
                    self._refused[reason] += 1
            if self._log is not None and self._log.enabled:
                self._log.write(_access_line(scope, context, cycle))


class Boundary:
    """The same boundary within the framework, which would tell unexpected errors in its own way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the outermost boundary
            await _tell(error, scope, receive, send)


async def _tell(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Make an answer of it. A response under way is left incomplete, which breaks the connection off."""
    if isinstance(error, ClientDisconnected):
        context_of(scope).gone = True
        return
    response = response_to(error, scope) if isinstance(error, RouterError) else unexpected(scope, error)
    if isinstance(error, AuthenticationFailed):
        response.headers["www-authenticate"] = "Bearer"
    if not cycle_of(scope).status:
        await response(scope, receive, send)


def _check_size(cycle: Cycle) -> None:
    if cycle.head_size > MOST_HEAD:
        raise HeadersTooLarge(f"The request has more than {MOST_HEAD // 1024} KB of headers, its first line included.")
    if len(cycle.scope["headers"]) > _MOST_HEADERS:
        raise HeadersTooLarge(f"The request has more than {_MOST_HEADERS} headers.")


def _request_id(scope: Scope) -> str:
    told = named(scope).get(b"x-request-id")
    return fresh_id() if told is None or _SANE_ID.fullmatch(told) is None else str(told, "ascii")


def _access_line(scope: Scope, context: RequestContext, cycle: Cycle) -> str:
    milliseconds = (time.perf_counter() - context.started) * 1000
    status = _CLIENT_GONE if context.gone else cycle.status
    path = scope["path"] if len(scope["path"]) <= _LONGEST_PATH else f"{scope['path'][:_LONGEST_PATH]}…"
    client = scope["client"]
    return (
        f"client={_plain(client[0]) if client else '-'} "
        f"method={scope['method']} path={_plain(path)} status={status} ms={milliseconds:.1f} "
        f"model={_plain(context.model or '-')} bytes={cycle.sent} id={context.request_id} "
        f"key={context.caller.name or '-'}"
    )


@lru_cache(maxsize=256)
def _plain(text: str) -> str:
    """As it is when it is one printable word, else quoted with everything odd escaped."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
