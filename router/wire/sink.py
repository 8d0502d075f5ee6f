"""Who takes an upstream's answer."""

from __future__ import annotations

from typing import Protocol

RawHeaders = list[tuple[bytes, bytes]]


class ConnectionBroken(Exception):
    """The upstream ended or reset the connection, or said something that is no HTTP, before its answer was whole.

    Attributes:
        untouched: not a byte of an answer had come, so that asking again on a fresh connection repeats nothing.
    """

    def __init__(self, message: str, *, untouched: bool) -> None:
        super().__init__(message)
        self.untouched = untouched


class Sink(Protocol):
    """Takes one answer, piece by piece, as it comes out of the socket; called on the loop, must neither wait nor raise.

    The order is `head`, any number of `body`, then exactly one of `end` and `broke`; `broke` may come at any point
    before. After `Connection.abort` nothing comes any more.
    """

    def head(self, status: int, headers: RawHeaders) -> None:
        """The answer's head, names in lower case. Interim answers (1xx) are left out."""

    def body(self, chunk: bytes) -> None:
        """What one read brought of the body, never empty, free of any transfer coding's framing."""

    def end(self) -> None:
        """The answer is whole."""

    def broke(self, error: ConnectionBroken) -> None:
        """There is no more, and the answer is not whole."""
