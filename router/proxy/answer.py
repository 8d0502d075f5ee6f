"""What has been said to the client so far."""

from __future__ import annotations

from time import monotonic

from router.proxy.dialect import Dialect, ErrorInfo, error_body, error_event
from router.proxy.downstream import Downstream
from router.proxy.sse import EventBoundary
from router.proxy.usage import UsageTap
from router.wire.sink import RawHeaders

_PING_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class Answer:
    """One response being written. Nothing here waits, see `Downstream`.

    Attributes:
        status: as sent, or that of an error which was told in the stream; 0 before the start.
        streaming: the body is an event stream.
        first_content: monotonic time of the first chunk that was no ping; None before. Until then another upstream
            may take over.
        tap: counts the tokens of what is passed on.
    """

    __slots__ = ("_boundary", "_client", "_dialect", "_request_id", "first_content", "status", "streaming", "tap")

    def __init__(self, client: Downstream, dialect: Dialect, request_id: str) -> None:
        self._client = client
        self._dialect = dialect
        self._request_id = request_id
        self._boundary = EventBoundary()
        self.status = 0
        self.streaming = False
        self.first_content: float | None = None
        self.tap = UsageTap()

    def of_piece(self, client: Downstream) -> Answer:
        """An answer to a piece of the same request, to somebody who joins them."""
        return Answer(client, self._dialect, self._request_id)

    @property
    def started(self) -> bool:
        return self.status != 0

    def start(self, status: int, headers: RawHeaders, *, streaming: bool) -> None:
        """Say the head. Where pings have said one already it stays, and a comment that was cut in two is ended."""
        if not self.status:
            self.status, self.streaming = status, streaming
            self._client.start(status, headers)
        elif not self._boundary.between_events:
            self._pass_on(b"\n\n")

    def write(self, chunk: bytes) -> bool:
        """Pass a chunk (not empty) of the upstream's on; False if it was nothing but a ping."""
        self.tap.feed(chunk)
        content = self._boundary.feed(chunk) if self.streaming else True
        if content and self.first_content is None:
            self.first_content = monotonic()
        self._client.write(chunk)
        return content

    def end(self) -> None:
        self._client.end()

    def ping(self, note: str) -> None:
        """Tell a client that waits for its stream that it still does. Never inside of an event, nor after content."""
        if self.first_content is not None or not self._boundary.between_events or self._client.complete:
            return
        self.start(200, _PING_HEADERS, streaming=True)
        if self.streaming:
            self._pass_on(f": ping {note}\n\n".encode())

    def fail(self, info: ErrorInfo) -> None:
        """Tell an error: as the response if nothing has been said, else in the stream, which is then broken off.

        Bytes are passed on as they come, so the break may have cut an event in two. Its half is ended first: a client
        then fails at the half event or at the error event, and never takes the stream for a finished one.
        """
        if self._client.complete:
            return
        started, self.status = self.started, info.status
        if started:
            self._client.break_off(self._last_words(info))
            return
        body = error_body(info, self._dialect, self._request_id)
        found = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        found += [(name.encode("ascii"), value.encode("latin-1")) for name, value in info.headers.items()]
        self._client.start(info.status, found)
        self._client.end(body)

    def _last_words(self, info: ErrorInfo) -> bytes:
        if not self.streaming:
            return b""
        half = b"" if self._boundary.between_events else b"\n\n"
        return half + error_event(info, self._dialect, self._request_id)

    def _pass_on(self, comment: bytes) -> None:
        self._boundary.feed(comment)
        self._client.write(comment)
