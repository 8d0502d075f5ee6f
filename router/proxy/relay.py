"""The hot path: a request goes to an upstream as it came, and the answer comes back as it comes.

An answer is pushed from socket to socket as it is read, without a task being woken: `Connection` -> `Relay` -> `Answer`
-> `Downstream`. The request's task awaits the one future that tells the outcome.

The response's start is held until the first byte of its body is there, so that an upstream that dies before can still
be reported with a proper status, or be replaced.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Protocol

import msgspec

from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.errors import Overloaded, UpstreamFailed
from router.proxy.answer import Answer
from router.proxy.complaint import translated
from router.proxy.detour import Detour, Untold
from router.proxy.dialect import ErrorInfo
from router.proxy.headers import lines_to_upstream, to_client
from router.wire.connection import Connection
from router.wire.message import request_head
from router.wire.pool import Pool
from router.wire.sink import ConnectionBroken, RawHeaders

_LONGEST_ERROR = 1024 * 1024
_BROKE_OFF = "The model's server broke off its answer. Try again."
_UNREACHABLE = "The model's server cannot be reached; it is being restarted. Try again."
_EXHAUSTED = "The router has as many connections open as its limit of file descriptors allows. Try again."
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_STOPPING = "The model's server is being stopped; try again."
_NO_STREAM = ErrorInfo.of(UpstreamFailed("The model's server did not answer with the stream that was asked for."))

_Outcome = asyncio.Future[ConnectionBroken | None]


class Pace(Protocol):
    """How the client keeps up; whoever watches it calls these, where there are any."""

    on_full: Callable[[], None] | None
    on_ready: Callable[[], None] | None


class Call(msgspec.Struct):
    """A request on its way to an upstream. A struct, since it is made in a fraction of a dataclass's time.

    Attributes:
        target: path and query, percent-encoded.
        headers: the client's, by their names in lower case; an allow-list of them is passed on.
        content_type: replaces the client's when given.
        stream: the answer is expected to be a stream, so its connection is not used again.
        detour: for an answer that is asked for as a stream and told as a document.
    """

    method: str
    target: str
    headers: Mapping[bytes, bytes]
    body: bytes
    content_type: str | None = None
    stream: bool = False
    detour: Detour | None = None


class Relay:
    """The sink of one attempt.

    Attributes:
        outcome: done when there is nothing more to come: None, or how the connection broke.
        whole: the upstream's answer was read to its end.
        streaming: that answer is an event stream.
    """

    __slots__ = ("_answer", "_complaint", "_headers", "_lease", "_status", "outcome", "streaming", "whole")

    def __init__(self, answer: Answer, lease: Lease | None) -> None:
        self.outcome: _Outcome = asyncio.get_running_loop().create_future()
        self.whole = False
        self.streaming = False
        self._answer = answer
        self._lease = lease
        self._status = 0
        self._headers: RawHeaders | None = None  # held until something of the body is there
        self._complaint = bytearray()

    def head(self, status: int, headers: RawHeaders) -> None:
        self._status, self._headers = status, headers
        if self._lease is not None:
            self._lease.answered()
        for name, value in headers:
            if name == b"content-type":
                self.streaming = value[:17].lower() == b"text/event-stream"

    def body(self, chunk: bytes) -> None:
        if self._headers is not None:
            if self._is_complaint():
                self._collect(chunk)
                return
            self._start(self._headers)
        if self._answer.write(chunk) and self._lease is not None:
            self._lease.last_progress = monotonic()

    def end(self) -> None:
        if self.outcome.done():
            return
        self.whole = True
        if self._lease is not None:
            self._lease.finish()
        if self._headers is not None and self._is_complaint():
            self._tell()
        else:
            if self._headers is not None:
                self._start(self._headers)
            self._answer.end()
        self.outcome.set_result(None)

    def broke(self, error: ConnectionBroken) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)

    def progress(self) -> None:
        """Something came that the client does not get to see yet."""
        if self._lease is not None:
            self._lease.progress()

    def _start(self, found: RawHeaders) -> None:
        self._headers = None
        self._answer.start(self._status, to_client(found), streaming=self.streaming)

    def _is_complaint(self) -> bool:
        """Whether this is no answer to be passed on: an error, or a document where pings have promised a stream."""
        return self._status >= 400 or (self._answer.started and not self.streaming)

    def _collect(self, chunk: bytes) -> None:
        if self.outcome.done():
            return
        self._complaint += chunk
        if len(self._complaint) >= _LONGEST_ERROR:
            self._tell()
            self.outcome.set_result(None)

    def _tell(self) -> None:
        self._answer.fail(translated(self._status, bytes(self._complaint)) if self._status >= 400 else _NO_STREAM)


async def relay(upstream: Upstream, call: Call, answer: Answer, pace: Pace, lease: Lease | None = None) -> None:
    """Send `call` to `upstream` and its answer, whole, to `answer`.

    An upstream's own error is an answer too. Raises UpstreamFailed; what the client has been told by then is seen from
    `answer`. Raises Untold, before the client has been told anything, when the detour turns out to be none.
    """
    pool = upstream.pool
    if pool.closed:
        raise UpstreamFailed(_STOPPING, retry_after=1)
    detour = call.detour
    close = call.stream or detour is not None
    body = call.body if detour is None else detour.body
    head = _head(upstream, call, len(body), close=close)
    connection = None if close else pool.idle()
    kept = connection is not None
    connection = connection or await _connected(pool, unasked=lease)
    while True:
        taker = Relay(answer, lease)
        sink = taker if detour is None else detour.sink(taker, taker.progress)
        pace.on_full, pace.on_ready = connection.pause, connection.resume
        if lease is not None:
            lease.sent(len(body))
        try:
            connection.send(head, body, sink)
            broken = await taker.outcome
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            pace.on_full = pace.on_ready = None
        if not taker.whole or taker.streaming or close:
            connection.abort()
        else:
            pool.give_back(connection)
        if broken is None:
            return
        if isinstance(broken, Untold):
            if broken.whole and lease is not None:
                lease.finish()
            raise broken
        if not (kept and broken.untouched):
            raise UpstreamFailed(_BROKE_OFF, retry_after=1) from broken
        # It was kept a moment too long: the upstream was about to close it.
        connection, kept = await _connected(pool), False


def _head(upstream: Upstream, call: Call, length: int, *, close: bool) -> bytes:
    lines = lines_to_upstream(
        call.headers, authorization=upstream.authorization, content_type=call.content_type, close=close
    )
    return request_head(call.method, call.target, upstream.url.removeprefix("http://"), lines, length)


async def _connected(pool: Pool, unasked: Lease | None = None) -> Connection:
    """A fresh connection. A client that leaves meanwhile leaves an idle slot, if nothing was sent for its lease."""
    try:
        return await pool.connect()
    except asyncio.CancelledError:
        if unasked is not None:
            unasked.finish()
        raise
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            if unasked is not None:
                unasked.finish()
            raise Overloaded(_EXHAUSTED, retry_after=1) from error
        raise UpstreamFailed(_UNREACHABLE, retry_after=1) from error
