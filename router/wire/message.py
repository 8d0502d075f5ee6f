"""A request's head as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_WITHOUT_BODY = frozenset(("GET", "HEAD"))
_REMEMBERED = 256  # heads but for their lengths: most requests differ in nothing else


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as bytes. Raises ValueError when something in them would end a line."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    found = b"".join(lines)
    _check(found, len(lines), "a header")
    return found


def request_head(method: str, target: str, host: str, lines: bytes, length: int) -> bytes:
    """The head of a request, with its blank line.

    Args:
        target: path and query, percent-encoded.
        lines: `header_lines` of all headers but `host` and `content-length`, which are said here.
        length: of the body, in bytes.

    Raises:
        ValueError: something in it would end a line, or is not ASCII where it must be.
    """
    opening = _opening(method, target, host, lines)
    if length or method not in _WITHOUT_BODY:
        return b"%bcontent-length: %d\r\n\r\n" % (opening, length)
    return opening + b"\r\n"


@lru_cache(maxsize=_REMEMBERED)
def _opening(method: str, target: str, host: str, lines: bytes) -> bytes:
    start = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n".encode("ascii")
    _check(start, 2, f"the request {method} {target!r}")
    if " " in target:
        raise ValueError(f"a space in the request {method} {target!r}")
    return start + lines


def _check(told: bytes, lines: int, what: str) -> None:
    if told.count(b"\n") != lines or told.count(b"\r") != lines or b"\0" in told:
        raise ValueError(f"a line break or a null byte where none may be in {what}")
