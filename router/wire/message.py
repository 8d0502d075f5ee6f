"""A request's head as bytes."""

from __future__ import annotations

from collections.abc import Iterable

_WITHOUT_BODY = frozenset(("GET", "HEAD"))


def request_head(method: str, target: str, host: str, headers: Iterable[tuple[bytes, bytes]], length: int) -> bytes:
    """The head of a request, with its blank line.

    Args:
        target: path and query, percent-encoded.
        headers: all but `host` and `content-length`, which are said here.
        length: of the body, in bytes.

    Raises:
        ValueError: something in it would end a line, or is not ASCII where it must be.
    """
    lines = [f"{method} {target} HTTP/1.1\r\nhost: {host}".encode("ascii")]
    lines += [b"%b: %b" % header for header in headers]
    if length or method not in _WITHOUT_BODY:
        lines.append(b"content-length: %d" % length)
    count = len(lines) + 2  # the first holds two, and a blank one ends them
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head or " " in target:
        raise ValueError(f"a line break, a null byte or a space where none may be in the request {method} {target!r}")
    return head
