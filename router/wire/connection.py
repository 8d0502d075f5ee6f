"""One HTTP/1.1 connection to an upstream, driven by callbacks: what a read brings is pushed into a `Sink` at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import cast

from httptools import HttpParserError, HttpResponseParser

from router.wire.sink import ConnectionBroken, RawHeaders, Sink

_log = logging.getLogger(__name__)
# For a head, for trailers, and for any other bytes that bring neither a piece of a body nor the end of an answer.
_MOST_FRAMING = 64 * 1024
_TOO_MUCH = f"sent more than {_MOST_FRAMING} bytes of headers"
_MOST_HEADERS = 256
_ONE_PIECE = 16 * 1024  # up to here a copy is cheaper than a second buffer


class _Stage(Enum):
    """How far an answer has come. It only moves on: BODY and UNTIL_EOF exclude each other."""

    AWAITED = 1  # not a byte of it has come
    HEAD = 2  # interim answers count as a part of it
    BODY = 3  # which tells its own end
    UNTIL_EOF = 4  # a body that ends with the connection
    WHOLE = 5


_AWAITED, _HEAD, _BODY, _UNTIL_EOF, _WHOLE = _Stage  # looking up a member takes its time, and each read does


class _Misbehaviour(Exception):
    """The upstream broke the protocol; says how."""


class Connection(asyncio.Protocol):
    """Carries one request after another. Made by a `Pool`.

    The sink is called outside the parser, after all that the read brought has been parsed; so it may `pause`, `abort`,
    give the connection back, or send the next request from within `end`. One that raises is told that its answer is
    broken, and the connection is closed.

    Args:
        where: the upstream's address, for messages.
        lost: told when the connection is gone.

    Attributes:
        reusable: it is kept open by both sides, its last answer was whole, and nothing came after that.
        used: it has carried an answer before, so that a break before any byte may be no more than a stale keep-alive.
    """

    __slots__ = ("_bodiless", "_framing", "_head", "_headers", "_keep", "_lost", "_parser", "_paused", "_pieces",
                 "_sink", "_stage", "_transport", "_where", "on_body", "reusable", "used")  # fmt: skip

    def __init__(self, where: str, lost: Callable[[Connection], None]) -> None:
        self.reusable = False
        self.used = False
        self._where = where
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser
        self._sink: Sink | None = None
        self._paused = False
        self._pieces: list[bytes] = []  # of the body, from this read
        self.on_body = self._pieces.append
        self._begin(bodiless=False)

    def _begin(self, *, bodiless: bool) -> None:
        """Forget the last answer."""
        self._stage = _AWAITED
        self._headers: RawHeaders = []
        self._head: tuple[int, RawHeaders] | None = None  # known, and not yet told
        self._bodiless = bodiless
        self._keep = False
        self._framing = 0  # bytes since the last piece of a body

    # --- for the one who asks

    def send(self, head: bytes, body: bytes, sink: Sink) -> None:
        """Send a request; its answer goes to `sink`.

        Should the connection have been lost meanwhile, `sink.broke` is called before this returns. Raises RuntimeError
        while another answer is open.
        """
        if self._sink is not None:
            raise RuntimeError(f"the connection to {self._where} is still busy with another answer")
        self._begin(bodiless=head.startswith(b"HEAD "))
        self.reusable = False
        transport = self._transport
        if transport is None or transport.is_closing():
            sink.broke(ConnectionBroken(f"the connection to {self._where} was lost before the request", untouched=True))
            return
        self._sink = sink
        if len(body) <= _ONE_PIECE:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def pause(self) -> None:
        """Read no more until `resume`; what has been read already may still come."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; the sink hears nothing more."""
        self._sink = None
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def break_off(self, reason: str) -> None:
        """Close at once; an open answer is told that it is broken, and the reason, which is for people."""
        sink = self._sink
        self.abort()
        if sink is not None:
            self._tell_broken(sink, ConnectionBroken(reason, untouched=self._stage is _AWAITED))

    # --- for the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.abort()  # nobody has asked
            return
        if self._stage is _AWAITED:
            self._stage = _HEAD
        wrong = ""
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            wrong = _reason(error)
        try:
            if self._head is not None and not self._tell_head(sink, self._head, len(data)):
                return
            pieces = self._pieces
            if pieces:
                self._framing = 0
                chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                sink.body(chunk)
            else:
                self._framing += len(data)
            if self._stage is _WHOLE:
                if self._sink is sink:
                    self._finish(sink)
            elif wrong or self._framing > _MOST_FRAMING:
                told = f"answered something that is no HTTP: {wrong}" if wrong else _TOO_MUCH
                self.break_off(f"{self._where} {told}")
        except Exception:  # noqa: BLE001 - whatever it was, nothing else would wake the one who waits
            self._drop(sink)

    def eof_received(self) -> None:
        sink = self._sink
        if sink is not None and self._stage is _UNTIL_EOF:
            self.abort()
            self.used = True
            try:
                sink.end()
            except Exception:  # noqa: BLE001 - as above
                self._drop(sink)
        else:
            self.break_off(f"{self._where} closed the connection before its answer was whole")

    def connection_lost(self, error: Exception | None) -> None:
        try:
            self.break_off(f"the connection to {self._where} was lost before its answer was whole: {error}")
        finally:
            self._transport = None
            del self._parser  # which ends a cycle that only the garbage collector could
            self._lost(self)

    # --- for the parser

    def on_message_begin(self) -> None:
        if self._stage is _WHOLE:
            self._keep = False
            raise _Misbehaviour("an answer that nobody has asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []  # the new list is for trailers, which nobody reads
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise _Misbehaviour("it changed the protocol")
            if status < 100 or _tells_its_end(headers):  # the parser would read a body for which there is no head
                raise _Misbehaviour(f"a status of {status} with a body")
            return
        if len(headers) > _MOST_HEADERS:
            raise _Misbehaviour(f"more than {_MOST_HEADERS} headers")
        self._head = status, headers
        if self._bodiless:
            # There is no telling the parser, which now waits for a body; so this connection is not used again.
            self._stage = _WHOLE
            raise _Misbehaviour("unused")
        # The parser says so too of a body without an end of its own.
        closing = not self._parser.should_keep_alive()
        self._stage = _UNTIL_EOF if closing and not _tells_its_end(headers) else _BODY

    def on_message_complete(self) -> None:
        if self._stage is not _HEAD:  # or it was an interim answer
            self._stage = _WHOLE
            self._keep = self._parser.should_keep_alive()

    # --- for all of them

    def _drop(self, sink: Sink) -> None:
        """Give up an answer whose sink has just raised, or a request would wait for it for ever."""
        _log.exception("An answer of %s could not be taken", self._where)
        if self._sink is sink:
            self._sink = None
        reason = f"an answer of {self._where} could not be taken"
        self.break_off(reason)  # tells the next request, if one was sent from within `end`
        self._tell_broken(sink, ConnectionBroken(reason, untouched=False))

    def _tell_broken(self, sink: Sink, error: ConnectionBroken) -> None:
        try:
            sink.broke(error)
        except Exception:  # noqa: BLE001 - the one who closes has others to tell
            _log.exception("Nobody could be told that %s", error)

    def _tell_head(self, sink: Sink, head: tuple[int, RawHeaders], read: int) -> bool:
        """Tell the head that this read of so many bytes completed; whether to go on."""
        self._head = None
        if self._framing + read > _MOST_FRAMING:
            size = sum(len(name) + len(value) + 4 for name, value in head[1])
            if size > _MOST_FRAMING:
                self.break_off(f"{self._where} {_TOO_MUCH}")
                return False
        self._framing = 0
        sink.head(*head)
        return self._sink is sink

    def _finish(self, sink: Sink) -> None:
        self.resume()  # or an idle connection would not notice its end
        self._sink = None
        self.used = True
        # An early answer may overtake the rest of its request.
        self.reusable = self._keep and self._transport is not None and not self._transport.get_write_buffer_size()
        sink.end()


def _tells_its_end(headers: RawHeaders) -> bool:
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in headers)


def _reason(error: Exception) -> str:
    """What was wrong, never empty."""
    return str(error.__context__ if isinstance(error.__context__, _Misbehaviour) else error) or "unknown"
