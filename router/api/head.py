"""The head of a response, as the bytes that go out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import cache
from http import HTTPStatus


@cache
def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` and its line end."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


class DateLine:
    """The `date` line, made once for each second."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}\r\n".encode("ascii")
        return self._line


def joined(lines: Sequence[bytes]) -> bytes:
    """Header lines in one piece. Raises RuntimeError when a value brought a line of its own along."""
    told = b"".join(lines)
    if told.count(b"\n") != len(lines) or told.count(b"\r") != len(lines) or b"\0" in told:
        raise RuntimeError("A header of the response holds a line break or a NUL.")
    return told


date_line = DateLine()
