"""The far end of an answer, in the shape of the server's cycle: it keeps what it is told."""

from __future__ import annotations

from collections.abc import Callable

from router.proxy.downstream import Watcher
from router.wire.sink import RawHeaders


class FakeClient:
    """Implements `Downstream`, and holds what `Pace` has.

    Attributes:
        pieces: of the body, as they were handed over.
        last_words: None unless the response was broken off.
    """

    def __init__(self) -> None:
        self.status = 0
        self.sent = 0
        self.complete = False
        self.headers: RawHeaders = []
        self.pieces: list[bytes] = []
        self.last_words: bytes | None = None
        self.watcher: Watcher | None = None
        self.on_full: Callable[[], None] | None = None
        self.on_ready: Callable[[], None] | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def watch(self, watcher: Watcher | None) -> None:
        self.watcher = watcher

    def start(self, status: int, headers: RawHeaders) -> None:
        assert self.status == 0, "started twice"
        self.status, self.headers = status, headers

    def flush(self) -> None:
        assert self.status

    def write(self, chunk: bytes) -> None:
        assert chunk
        assert self.status
        assert not self.complete
        assert self.last_words is None
        self.pieces.append(chunk)
        self.sent += len(chunk)

    def end(self, chunk: bytes = b"") -> None:
        if chunk:
            self.write(chunk)
        assert self.status
        assert not self.complete
        self.complete = True

    def break_off(self, last_words: bytes = b"") -> None:
        assert self.status
        assert not self.complete
        self.last_words = last_words
