"""The client's side of a relayed exchange, as the server gives it to the relay."""

from __future__ import annotations

from typing import Protocol

from router.wire.sink import RawHeaders


class Watcher(Protocol):
    """Told what becomes of the client; called on the loop, must neither wait nor raise."""

    def client_gone(self) -> None:
        """The connection is lost. Comes once, and at once if it was lost before anybody watched."""

    def client_full(self) -> None:
        """The client reads more slowly than it is written to: write no more than what is already on its way."""

    def client_ready(self) -> None:
        """It has caught up."""


class Downstream(Protocol):
    """One response being written. Nothing here waits: what the socket does not take yet is kept.

    Writing to a client that is gone does nothing.
    """

    @property
    def status(self) -> int:
        """As started; 0 before."""

    @property
    def sent(self) -> int:
        """Bytes of the body handed over."""

    @property
    def complete(self) -> bool:
        """The last byte has been handed over."""

    def watch(self, watcher: Watcher | None) -> None:
        """Have a watcher, or none any more."""

    def start(self, status: int, headers: RawHeaders) -> None:
        """Say the head; it goes out with the first bytes of the body.

        Names in lower case. Without a `content-length` among the headers the body is sent in chunks.
        """

    def flush(self) -> None:
        """Send the head now, though there is no body yet."""

    def write(self, chunk: bytes) -> None:
        """A piece of the body, not empty."""

    def end(self, chunk: bytes = b"") -> None:
        """The last piece, and the end of the response."""

    def break_off(self, last_words: bytes = b"") -> None:
        """Write these, if any, and close the connection without ending the body.

        So the client cannot take what it has for a whole answer. What was written before still goes out.
        """
