"""How an error is told: OpenAI's shape, Anthropic's, and what each puts into a stream that breaks.

OpenAI: `{"error": {"message", "type", "param", "code"}}`, all four keys, `code` a string or null.
Anthropic: `{"type": "error", "error": {"type", "message"}, "request_id"}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from router.errors import RouterError

# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Dialect(StrEnum):
    """Whose words an endpoint speaks; RESPONSES differs from OPENAI only in the middle of a stream."""

    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error, before it takes the shape of a dialect.

    Attributes:
        extra: further fields of the upstream's error that clients read, e.g. `n_ctx`.
        headers: response headers that belong to it.
    """

    status: int
    message: str
    type: str
    code: str | None
    param: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: RouterError) -> ErrorInfo:
        return cls(error.status, error.message, error.type, error.code, error.param, headers=error.headers())


def error_body(info: ErrorInfo, dialect: Dialect, request_id: str) -> bytes:
    """The JSON body of an error response."""
    return _json(_anthropic(info, request_id) if dialect is Dialect.ANTHROPIC else {"error": _openai(info)})


def error_event(info: ErrorInfo, dialect: Dialect, request_id: str) -> bytes:
    """The server-sent event that says that a stream broke. No `[DONE]` may follow it."""
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + _json(_anthropic(info, request_id)) + b"\n\n"
    if dialect is Dialect.RESPONSES:
        error = {"code": info.code or info.type, "message": info.message}
        response = {"id": f"resp_{request_id}", "object": "response", "status": "failed", "error": error, "output": []}
        return b"event: response.failed\ndata: " + _json({"type": "response.failed", "response": response}) + b"\n\n"
    return b"data: " + _json({"error": _openai(info)}) + b"\n\n"


def _openai(info: ErrorInfo) -> dict[str, object]:
    told = {"message": info.message, "type": info.type, "param": info.param, "code": info.code}
    return {**info.extra, **told}


def _anthropic(info: ErrorInfo, request_id: str) -> dict[str, object]:
    fallback = "invalid_request_error" if info.status < 500 else "api_error"
    error = {**info.extra, "type": _ANTHROPIC_TYPES.get(info.status, fallback), "message": info.message}
    return {"type": "error", "error": error, "request_id": request_id}


def _json(value: object) -> bytes:
    # A lone surrogate out of a client's escape has no UTF-8; it becomes "?".
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
