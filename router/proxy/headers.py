"""Which headers cross the router, in either direction."""

from __future__ import annotations

from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]

# llama-server answers a bare 400 to more than 8 KB of headers, so only what it (or a remote of its kind) reads passes.
# `x-conversation-id` is left out on purpose: with it a disconnect no longer cancels the generation.
_TO_UPSTREAM = frozenset(
    (b"accept", b"content-type", b"anthropic-version", b"anthropic-beta", b"openai-beta", b"last-event-id")
)
_LONGEST_VALUE = 1024

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
# The router says these itself.
_OURS = frozenset((b"server", b"date", b"x-request-id", b"request-id", b"www-authenticate"))
_DROPPED = _HOP_BY_HOP | _OURS


def to_upstream(
    headers: Iterable[tuple[bytes, bytes]], *, authorization: str, content_type: str | None, close: bool
) -> dict[str, str]:
    """The request headers for an upstream.

    Args:
        content_type: replaces the client's; llama-server reads a form type as a form of at most 8 KB.
        close: ask for a connection of its own. llama-server closes after every stream while it promises keep-alive.
    """
    found = {
        name.decode("ascii"): value.decode("ascii")
        for name, value in headers
        if name in _TO_UPSTREAM and len(value) <= _LONGEST_VALUE and value.isascii()
    }
    found["accept-encoding"] = "identity"
    if authorization:
        found["authorization"] = authorization
    if content_type is not None:
        found["content-type"] = content_type
    if close:
        found["connection"] = "close"
    return found


def to_client(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The response headers for the client, names in lower case."""
    found: RawHeaders = []
    named: set[bytes] = set()
    chunked = False
    for raw_name, value in headers:
        name = raw_name.lower()
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
        elif name == b"transfer-encoding":
            chunked = True
        elif name not in _DROPPED and not name.startswith(b"access-control-"):
            found.append((name, value))
    if chunked:
        named.add(b"content-length")
    return [(name, value) for name, value in found if name not in named] if named else found
