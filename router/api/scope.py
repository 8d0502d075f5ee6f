"""A request's head as an ASGI scope."""

from __future__ import annotations

import asyncio
import urllib.parse

from httptools import parse_url
from starlette.types import Scope

_ASGI = {"version": "3.0", "spec_version": "2.3"}


def http_scope(  # noqa: PLR0917  called for each request, and keywords cost
    method: str,
    url: bytes,
    version: str,
    headers: list[tuple[bytes, bytes]],
    client: tuple[str, int] | None,
    server: tuple[str, int] | None,
) -> Scope:
    """Raises HttpParserInvalidURLError, UnicodeDecodeError for a target that is none. Paths stay as they are."""
    if url.startswith(b"/") and b"#" not in url:
        raw_path, _, query = url.partition(b"?")
        query.decode("ascii")
    else:
        parts = parse_url(url)
        raw_path, query = parts.path, parts.query or b""
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "server": server,
        "client": client,
        "scheme": "http",
        "root_path": "",
        "method": method,
        "path": urllib.parse.unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": headers,
    }


def head_size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes of a request's head, but for the few of its method and version."""
    return len(url) + sum([len(name) + len(value) + 4 for name, value in headers])


def address_of(transport: asyncio.BaseTransport, name: str) -> tuple[str, int] | None:
    """Host and port of `peername` or `sockname`."""
    found = transport.get_extra_info(name)
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
