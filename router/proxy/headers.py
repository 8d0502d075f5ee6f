"""Which headers cross the router, in either direction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from router.wire.message import header_lines
from router.wire.sink import RawHeaders

# llama-server answers a bare 400 to more than 8 KB of headers, so only what it (or a remote of its kind) reads passes.
# `x-conversation-id` is left out on purpose: with it a disconnect no longer cancels the generation.
_TO_UPSTREAM = (b"accept", b"content-type", b"anthropic-version", b"anthropic-beta", b"openai-beta", b"last-event-id")
_LONGEST_VALUE = 1024
_CLIENTS = 256  # kinds of them, by what they send of the above

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
# The router says these itself.
_OURS = frozenset((b"server", b"date", b"x-request-id", b"request-id", b"www-authenticate"))
_DROPPED = _HOP_BY_HOP | _OURS


def to_upstream(
    headers: Mapping[bytes, bytes], *, authorization: str, content_type: str | None, close: bool
) -> RawHeaders:
    """The request headers for an upstream.

    Args:
        headers: the client's, by their names in lower case.
        content_type: replaces the client's; llama-server reads a form type as a form of at most 8 KB.
        close: ask for a connection of its own. llama-server closes after every stream while it promises keep-alive.
    """
    return _chosen(_passed(headers), authorization, content_type, close)


def lines_to_upstream(
    headers: Mapping[bytes, bytes], *, authorization: str, content_type: str | None, close: bool
) -> bytes:
    """The same as bytes. A client says the same in all of its requests, so they are made only once."""
    return _lines(_passed(headers), authorization, content_type, close)


def _passed(headers: Mapping[bytes, bytes]) -> tuple[bytes | None, ...]:
    return tuple(map(headers.get, _TO_UPSTREAM))


@lru_cache(maxsize=_CLIENTS)
def _lines(passed: tuple[bytes | None, ...], authorization: str, content_type: str | None, close: bool) -> bytes:
    return header_lines(_chosen(passed, authorization, content_type, close))


def _chosen(passed: tuple[bytes | None, ...], authorization: str, content_type: str | None, close: bool) -> RawHeaders:
    found = {
        name: value
        for name, value in zip(_TO_UPSTREAM, passed, strict=True)
        if value is not None and len(value) <= _LONGEST_VALUE and value.isascii()
    }
    found[b"accept-encoding"] = b"identity"
    if authorization:
        found[b"authorization"] = authorization.encode()
    if content_type is not None:
        found[b"content-type"] = content_type.encode()
    if close:
        found[b"connection"] = b"close"
    return list(found.items())


def to_client(headers: RawHeaders) -> RawHeaders:
    """The response headers for the client; names in lower case, here and there."""
    found: RawHeaders = []
    named: set[bytes] = set()
    for header in headers:
        name, value = header
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
        elif name == b"transfer-encoding":
            named.add(b"content-length")
        elif name not in _DROPPED and not name.startswith(b"access-control-"):
            found.append(header)
    return [header for header in found if header[0] not in named] if named else found
