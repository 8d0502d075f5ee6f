"""CORS for configured origins."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import Forbidden
from router.proxy.dialect import Dialect, ErrorInfo, error_body

_EXPOSED = ("x-request-id", "request-id", "retry-after", "x-should-retry", "x-error-source")
_EXPOSE = f"access-control-expose-headers: {', '.join(_EXPOSED)}\r\n".encode("ascii")
_VARY = b"vary: Origin\r\n"


class Cors(CORSMiddleware):
    """Starlette's rules, asked one by one: what it would do to `send` for each message is made in one piece here."""

    def __init__(self, origins: Sequence[str]) -> None:
        super().__init__(
            _nothing, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=_EXPOSED
        )

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a preflight; None = this is none. It takes no key: browsers send none with it."""
        if scope["method"] != "OPTIONS":
            return None
        headers = Headers(scope=scope)
        if "origin" not in headers or "access-control-request-method" not in headers:
            return None
        return self.preflight_response(headers)

    def lines(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Header lines of the response to a request with these headers."""
        origin = next((value for name, value in headers if name == b"origin"), None)
        if origin is None:
            return _VARY
        if self.allow_all_origins:
            return _VARY + _EXPOSE + b"access-control-allow-origin: *\r\n"
        if self.is_allowed_origin(origin.decode("latin-1")):
            return _VARY + _EXPOSE + b"access-control-allow-origin: " + origin + b"\r\n"
        return _VARY + _EXPOSE

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's, but for the body of a refusal."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        error = Forbidden(f"{bytes(response.body).decode()}: see api.cors_origins.")
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        body = error_body(ErrorInfo.of(error), Dialect.OPENAI, "")
        return Response(body, response.status_code, kept, media_type="application/json")


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """What stands behind a middleware that is only asked."""
