"""What has been said to the client so far."""

from __future__ import annotations

from time import monotonic

from starlette.types import Send

from router.proxy.headers import RawHeaders
from router.proxy.sse import EventBoundary


class Answer:
    """One response being written.

    A response that is broken off is left incomplete, which makes the server abort the connection: the client must
    not take it for a whole one.

    Attributes:
        status: as sent; 0 before the start.
        streaming: the body is an event stream.
        complete: the last byte has been handed over.
        first_content: monotonic time of the first chunk that was no ping; None before.
    """

    __slots__ = ("_boundary", "_held", "_send", "complete", "first_content", "status", "streaming")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._boundary = EventBoundary()
        self._held = b""
        self.status = 0
        self.streaming = False
        self.complete = False
        self.first_content: float | None = None

    @property
    def started(self) -> bool:
        return self.status != 0

    async def start(self, status: int, headers: RawHeaders) -> None:
        self.status = status
        self.streaming = any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers
        )
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> bool:
        """Pass a chunk (not empty) on; False if it was nothing but a ping."""
        content = self._noted(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        return content

    def hold(self, chunk: bytes) -> bool:
        """Keep the last chunk for `end`, which then takes no message of its own; otherwise as `write`."""
        self._held = chunk
        return self._noted(chunk)

    def _noted(self, chunk: bytes) -> bool:
        content = self._boundary.feed(chunk) if self.streaming else True
        if content and self.first_content is None:
            self.first_content = monotonic()
        return content

    async def end(self) -> None:
        """Send what is held, and the end with it."""
        self.complete = True
        await self._send({"type": "http.response.body", "body": self._held, "more_body": False})

    async def break_off(self, event: bytes) -> None:
        """Tell in the stream that it broke, and leave it incomplete.

        Bytes are passed on as they come, so the break may have cut an event in two. Its half is ended first: a client
        then fails at the half event or at the error event, and never takes the stream for a finished one.
        """
        if self.streaming:
            partial = b"" if self._boundary.between_events else b"\n\n"
            await self._send({"type": "http.response.body", "body": partial + event, "more_body": True})
