"""One request and its response: an ASGI `receive` and `send` for the framework, a `Downstream` for the relay."""

from __future__ import annotations

import asyncio
from enum import Enum
from functools import lru_cache
from typing import Protocol

from starlette.types import Message, Scope

from router.api.head import date_line, joined, status_line
from router.api.named import named
from router.errors import ShuttingDown
from router.proxy.downstream import Downstream, Watcher
from router.wire.sink import RawHeaders

EXTENSION = "llama_router.downstream"
MOST_HEAD = 16 * 1024  # bytes of a request's head that are answered as asked
_MOST_UNREAD = 64 * 1024  # bytes of a request's body that are kept before the client has to wait
_ONE_PIECE = 16 * 1024  # up to here a copy is cheaper than a second buffer
_REMEMBERED = 64  # heads of responses, but for their lengths
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HOP = frozenset((b"connection", b"transfer-encoding", b"keep-alive"))


class BodySource(Protocol):
    """Where a request's body comes from, for those who would rather not wait.

    Attributes:
        overdue: it came too slowly, and no more of it is received.
    """

    overdue: bool

    def taken_body(self) -> bytes | None:
        """The whole body, if it is here already; then it has been taken. None = it has to be received."""


class Framing(Enum):
    """How the client sees where the response's body ends."""

    NOTHING = "there is no body: HEAD, 204, 304"
    LENGTH = "by its `content-length`"
    CHUNKED = "by a last chunk"
    UNTIL_CLOSE = "by the end of the connection, for HTTP/1.0"


_NOTHING, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing  # looking up a member takes its time, and each write does


class ClientConnection(Protocol):
    """What a cycle asks of the connection that it belongs to."""

    @property
    def full(self) -> bool:
        """The client has not taken yet what was written."""

    async def drained(self) -> None:
        """Wait while it is full."""

    def write(self, data: bytes) -> None: ...

    def writelines(self, data: tuple[bytes, ...]) -> None: ...

    def resume_reading(self) -> None:
        """The body that was `crowded` has been taken."""

    def answered(self, cycle: Cycle) -> None:
        """Its response is whole."""

    def close(self) -> None:
        """Once what was written has gone out, and so that the client gets it though it may still be sending."""

    def reset(self) -> None:
        """At once, so that the client cannot take it for an orderly end."""


class Cycle:
    """Implements `Downstream` and `BodySource`; `receive` and `send` are as the ASGI specification says.

    Attributes:
        head_size: bytes of the request's head, at most; beyond MOST_HEAD exactly.
        keep_alive: the connection may be used again afterwards.
        lines: headers that this response carries whoever starts it, as bytes with their line ends.
        received: bytes of the request's body so far.
        overdue: see `BodySource`.
        status, sent, complete: see `Downstream`.
        task: that answers it, once there is one.
    """

    __slots__ = ("_arrived", "_body", "_connection", "_framing", "_gone", "_handed_over", "_head", "_hurried",
                 "_invited", "_left", "_news", "_old", "_over", "_unread", "_watcher", "complete", "head_size",
                 "keep_alive", "lines", "overdue", "received", "scope", "sent", "status", "task")  # fmt: skip

    def __init__(self, connection: ClientConnection, scope: Scope, *, head_size: int, keep_alive: bool) -> None:
        self.scope = scope
        self.task: asyncio.Task[None]
        self.head_size = head_size
        self.keep_alive = keep_alive
        self.lines = b""
        self.received = 0
        self.overdue = False
        self.status = 0
        self.sent = 0
        self.complete = False
        self._connection = connection
        self._old = scope["http_version"] == "1.0"
        # Of the request.
        self._body: list[bytes] = []
        self._unread = 0  # bytes in there
        self._arrived = False  # to its end
        self._handed_over = False  # to its end
        self._invited = False  # by `100 Continue`
        self._hurried = False  # the rest of it is not waited for
        # Of the response.
        self._framing = _NOTHING
        self._head = b""  # not sent yet
        self._left = 0  # bytes that the length promises
        self._over = False  # nothing more can be written
        self._gone = False
        self._watcher: Watcher | None = None
        self._news: asyncio.Event | None = None  # for those who wait in `receive`

    # --- for the connection

    @property
    def readable(self) -> bool:
        """More of the request is to come, and somebody may want it."""
        return not self._arrived and not self._over

    @property
    def crowded(self) -> bool:
        """More of the body is here than should be, and nobody has taken it."""
        return self._unread > _MOST_UNREAD and not self._over

    @property
    def held(self) -> int:
        """Bytes of the request that are kept."""
        return self.head_size + self._unread

    def feed(self, chunk: bytes) -> None:
        """A piece of the request's body."""
        if self._over:
            return
        size = len(chunk)
        self._body.append(chunk)
        self._unread += size
        self.received += size
        self._tell_news()

    def feed_end(self) -> None:
        """The request is whole."""
        self._arrived = True
        self._tell_news()

    def close_soon(self) -> None:
        """The router is about to end: this is the connection's last response, and a body is not waited for."""
        self.keep_alive = False
        self._hurried = True
        self._tell_news()

    def expire(self) -> None:
        """The rest of the body is not waited for; whoever reads it may still answer."""
        self.overdue = True
        self._tell_news()

    def client_full(self) -> None:
        if self._watcher is not None:
            self._watcher.client_full()

    def client_ready(self) -> None:
        if self._watcher is not None:
            self._watcher.client_ready()

    def lost(self) -> None:
        """The client is gone."""
        if self._over:
            return
        self._over = self._gone = True
        self._tell_news()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.client_gone()

    def give_up(self) -> None:
        """Nobody writes to this response any more. If it is not whole the client must not take it for one that is."""
        if self._over:
            return
        if not self.status:
            self.keep_alive = False
            self.start(500, [(b"content-length", b"0")])
            self.end()
        else:
            self.break_off()

    # --- Downstream

    def watch(self, watcher: Watcher | None) -> None:
        self._watcher = watcher
        if watcher is None:
            return
        if self._gone:
            self._watcher = None
            watcher.client_gone()
        elif self._connection.full:
            watcher.client_full()

    def start(self, status: int, headers: RawHeaders) -> None:
        if self._over:
            return
        if self.status:
            raise RuntimeError("The response has been started before.")
        length, others = -1, []
        for header in headers:
            if header[0] == b"content-length":
                length = int(header[1])
            else:
                others.append(header)
        told, closes = _told(tuple(others))
        self._framing = self._framing_of(status, length)
        framing = b"content-length: %d\r\n" % length if length >= 0 else b""
        if self._framing is _LENGTH:
            self._left = length
        elif self._framing is _CHUNKED:
            framing = b"transfer-encoding: chunked\r\n"
        # The body of one that hesitates may come or not, so nobody can tell where the next request begins; that of one
        # that has failed the client had better not go on to send.
        if closes or (not self._arrived and (status >= 400 or self._hesitates())):
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        self._head = b"".join((status_line(status), date_line(), self.lines, told, framing, b"\r\n"))
        self.status = status

    def _framing_of(self, status: int, length: int) -> Framing:
        if self.scope["method"] == "HEAD" or status in {204, 304}:
            return _NOTHING
        if length >= 0:
            return _LENGTH
        return _UNTIL_CLOSE if self._old else _CHUNKED

    def flush(self) -> None:
        if not self._over:
            self._put(b"", b"")

    def write(self, chunk: bytes) -> None:
        if not self._over:
            self._put(chunk, b"")

    def end(self, chunk: bytes = b"") -> None:
        if self._over:
            return
        tail = b"0\r\n\r\n" if self._framing is _CHUNKED else b""
        if chunk or tail or self._head or not self.status:
            self._put(chunk, tail)
        if self._left:
            raise RuntimeError(f"The response's body is {self._left} bytes shorter than its content-length.")
        self.complete = self._over = True
        self._watcher = None
        self._tell_news()
        self._connection.answered(self)

    def break_off(self, last_words: bytes = b"") -> None:
        if self._over:
            return
        if last_words:
            self.write(last_words)
        self._over = True
        self._watcher = None
        self._tell_news()
        if self._framing is _UNTIL_CLOSE and not last_words:
            self._connection.reset()
        else:
            self._connection.close()

    def _put(self, chunk: bytes, tail: bytes) -> None:
        if not self.status:
            raise RuntimeError("The response has no head yet.")
        before, self._head = self._head, b""
        size = len(chunk)
        if self._framing is _NOTHING:
            chunk = b""
        elif size:
            self.sent += size
            if self._framing is _CHUNKED:
                before, tail = b"%b%x\r\n" % (before, size), b"\r\n" + tail
            elif self._framing is _LENGTH:
                self._left -= size
                if self._left < 0:
                    raise RuntimeError("The response's body is longer than its content-length.")
        if len(chunk) > _ONE_PIECE:
            self._connection.writelines((before, chunk, tail))
        elif data := b"".join((before, chunk, tail)):
            self._connection.write(data)

    # --- BodySource

    def taken_body(self) -> bytes | None:
        if not self._arrived or self._handed_over or self._over:
            return None
        self._handed_over = True
        return self._take()

    def _take(self) -> bytes:
        body, self._body = self._body, []
        if self._unread > _MOST_UNREAD:
            self._connection.resume_reading()
        self._unread = 0
        return body[0] if len(body) == 1 else b"".join(body)

    # --- ASGI

    async def receive(self) -> Message:
        if self._handed_over:
            while not self._over:
                await self._next_news()
        elif not self._body and not self._arrived and not self._over:
            await self._more_body()
        if self._over or self.overdue:
            return {"type": "http.disconnect"}
        if self._hurried and not self._arrived:
            raise ShuttingDown("The router is shutting down, and the request was not whole yet.", retry_after=5)
        self._handed_over = self._arrived
        return {"type": "http.request", "body": self._take(), "more_body": not self._arrived}

    async def send(self, message: Message) -> None:
        if self._connection.full and not self._over:
            await self._connection.drained()
        kind = message["type"]
        if self.complete:
            raise RuntimeError(f"Unexpected {kind}: the response is complete.")
        if kind == "http.response.start":
            self.start(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
        elif kind == "http.response.body":
            body = message.get("body", b"")
            if message.get("more_body", False):
                self.write(body)
            else:
                self.end(body)
        else:
            raise RuntimeError(f"Unexpected {kind}.")

    async def _more_body(self) -> None:
        if self._hesitates() and not self.status:
            self._connection.write(_CONTINUE)
            self._invited = True
        while not (self._body or self._arrived or self._over or self._hurried or self.overdue):
            await self._next_news()

    def _hesitates(self) -> bool:
        """The client waits for a word of ours before it sends the body."""
        if self._arrived or self._invited or self._old:
            return False
        return named(self.scope).get(b"expect", b"").lower() == b"100-continue"

    async def _next_news(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    def _tell_news(self) -> None:
        if self._news is not None:
            self._news.set()


@lru_cache(maxsize=_REMEMBERED)
def _told(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool]:
    """Headers as lines, but for those of the connection, and whether these close it. Many responses have the same."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in _HOP]
    return joined(lines), any(b"close" in value.lower() for name, value in headers if name in _HOP)


def cycle_of(scope: Scope) -> Cycle:
    """The cycle that a scope belongs to; the server puts it there."""
    found: Cycle = scope["extensions"][EXTENSION]
    return found


def downstream_of(scope: Scope) -> Downstream:
    """The client's side of a relayed exchange."""
    found: Downstream = scope["extensions"][EXTENSION]
    return found


def body_source_of(scope: Scope) -> BodySource:
    """Where the body of a request comes from."""
    found: BodySource = scope["extensions"][EXTENSION]
    return found
