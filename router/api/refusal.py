"""What does not become a request, or not one that anybody serves: how its sender is told, and as what it counts."""

from __future__ import annotations

from collections.abc import Mapping

from httptools import HttpParserError
from starlette.types import Scope

from router.api.context import fresh_id
from router.api.errors import HttpVersionNotSupported
from router.api.head import date_line, status_line
from router.api.named import named
from router.errors import InvalidRequest, Overloaded, RouterError, UnsupportedEncoding
from router.proxy.dialect import Dialect, ErrorInfo, error_body
from router.telemetry.connections import Refusal

_VERSIONS = frozenset(("1.0", "1.1"))
_BY_STATUS: Mapping[int, Refusal] = {408: "body_timeout", 413: "body_size", 431: "head_size"}


def check_head(scope: Scope) -> None:
    """What the parser lets pass though a proxy in front might take it for something else.

    Raises HttpVersionNotSupported, InvalidRequest, UnsupportedEncoding.
    """
    version, headers = scope["http_version"], named(scope)
    if version not in _VERSIONS:
        raise HttpVersionNotSupported("This server speaks HTTP/1.1 and HTTP/1.0.")
    host = headers.get(b"host")
    if b"," in host if host is not None else version == "1.1":  # a comma also stands between the values of two
        raise InvalidRequest(f"The request has {'several' if host else 'no'} `host` headers; it must have one.")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        _check_coding(version, coding)


def _check_coding(version: str, coding: bytes) -> None:
    if version == "1.0":
        raise InvalidRequest("HTTP/1.0 has no `transfer-encoding`.")
    if coding.strip().lower() != b"chunked":
        raise UnsupportedEncoding("Of transfer-encodings only `chunked` is accepted; send the body as it is.")


def unreadable(error: HttpParserError) -> tuple[RouterError, Refusal]:
    """Why the parser stopped, in words for people; what a callback raised is told by its own."""
    cause = error.__context__
    if isinstance(cause, Overloaded):
        return cause, "requests"
    told = cause if isinstance(cause, RouterError) else InvalidRequest(f"This is not valid HTTP: {error}.")
    return told, "malformed"


def refusal(error: RouterError, dialect: Dialect) -> bytes:
    """A whole response, the last one on its connection."""
    info, request_id = ErrorInfo.of(error), fresh_id()
    body = error_body(info, dialect, request_id)
    fields = {
        **info.headers,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": request_id,
    }
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    return status_line(info.status) + date_line() + lines.encode("ascii") + b"\r\n" + body


def reason_of(status: int, scope: Scope, *, keys: bool) -> Refusal | None:
    """As what a request with this answer is counted; None for one that was not refused at the boundary.

    Args:
        keys: there are some for clients, so that no stranger comes as far as to be told that it is one.
    """
    if status == 401:
        headers = named(scope)
        return "wrong_key" if b"authorization" in headers or b"x-api-key" in headers else "no_key"
    if status == 403:
        return "forbidden" if keys else "stranger"
    return _BY_STATUS.get(status)
