"""The answer to a piece: kept until the others are there."""

from __future__ import annotations

from collections.abc import Callable

from router.errors import RouterError
from router.proxy.downstream import Watcher
from router.wire.sink import RawHeaders


class Part:
    """See router.proxy.downstream.Downstream; the client of a piece, as the relay sees it.

    Args:
        grow: told of every byte that is kept; raises a RouterError when there is no room for them.

    Attributes:
        headers: of the answer.
        body: of the answer; not whole if `refusal` is set.
        refusal: why it was not kept.
    """

    def __init__(self, grow: Callable[[int], None]) -> None:
        self._grow = grow
        self.status = 0
        self.sent = 0
        self.complete = False
        self.headers: RawHeaders = []
        self.body = bytearray()
        self.refusal: RouterError | None = None

    def watch(self, watcher: Watcher | None) -> None:
        """It never leaves, and is never slow."""

    def start(self, status: int, headers: RawHeaders) -> None:
        self.status, self.headers = status, headers

    def flush(self) -> None: ...

    def write(self, chunk: bytes) -> None:
        self.sent += len(chunk)
        if self.refusal is not None:
            return
        try:
            self._grow(len(chunk))
        except RouterError as error:
            self.refusal = error
        else:
            self.body += chunk

    def end(self, chunk: bytes = b"") -> None:
        self.write(chunk)
        self.complete = True

    def break_off(self, last_words: bytes = b"") -> None:
        self.end(last_words)
