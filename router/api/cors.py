"""CORS for configured origins."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from router.errors import Forbidden
from router.proxy.dialect import Dialect, ErrorInfo, error_body


class Cors(CORSMiddleware):
    """Starlette's, but for the body of a refused preflight."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        error = Forbidden(f"{bytes(response.body).decode()}: see api.cors_origins.")
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        body = error_body(ErrorInfo.of(error), Dialect.OPENAI, "")
        return Response(body, response.status_code, kept, media_type="application/json")
