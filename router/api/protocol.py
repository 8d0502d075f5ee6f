"""The server's side of a connection: bytes become requests, and requests are answered one after another.

It stands where uvicorn's own would, and uvicorn's server drives it: it makes one for each connection, calls `shutdown`,
and waits until `connections` and `tasks` of its state are empty.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.server import ServerState

from router.api.cycle import EXTENSION, MOST_HEAD, Cycle
from router.api.door import Door
from router.api.endpoints import dialect_of
from router.api.errors import HeadersTooLarge, RequestTimeout
from router.api.outflow import Outflow
from router.api.pace import Pace
from router.api.refusal import check_head, refusal, unreadable
from router.api.scope import address_of, head_size, http_scope
from router.errors import InvalidRequest, Overloaded, RouterError
from router.telemetry.connections import Refusal

_HIGH_WATER = 64 * 1024
# For a head, for trailers, and for any other bytes that bring neither the end of a head nor a piece of a body.
_MOST_FRAMING = 64 * 1024
# Of requests that are sent before those in front of them are answered. Reading goes on meanwhile, as nothing else tells
# that the client has left.
_MOST_AHEAD = 64
_MOST_BYTES_AHEAD = 64 * 1024
# That a client may go on sending after it has its last answer: a connection closed on unread bytes is reset, and takes
# the answer along.
_LINGER_SEC = 2.0
# What tells whether the router lives and why it is busy is answered when it is too busy for anything else.
_ALWAYS = frozenset((b"/health", b"/healthz", b"/readyz", b"/metrics"))
_NO_LINGER = struct.pack("ii", 1, 0)
_log = logging.getLogger("router.api")


class HttpProtocol(asyncio.Protocol):
    """One client's connection. HTTP/1.0 and 1.1; offers of another protocol are not taken up.

    Args:
        door: that all connections of the server share.
    """

    __slots__ = ("_answering", "_app", "_begun", "_client", "_deaf", "_declined", "_door", "_framing", "_head_since",
                 "_headers", "_limits", "_loop", "_most_requests", "_outflow", "_pace", "_parser", "_read", "_reading",
                 "_reading_paused", "_server", "_since", "_state", "_transport", "_url", "_waiting",
                 "write", "writelines")  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002  uvicorn's, of a lifespan that there is not
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        door: Door,
    ) -> None:
        self._app = cast("ASGIApp", config.loaded_app)
        self._door = door
        self._limits = door.limits
        self._most_requests = door.limits.requests
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._outflow = Outflow(door.limits.send_timeout)
        self._transport: asyncio.Transport
        self._parser: HttpRequestParser
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._since = 0.0  # the last answer, or whatever else time is counted from
        self._reading_paused = False
        self._deaf = False  # what comes is dropped
        # The request that is being parsed.
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._read = 0  # bytes of the last read
        self._framing = 0  # bytes read since a head ended or a piece of a body came
        self._begun = 0  # bytes of the next head that came beside the end of the last request, at most
        self._declined = b""  # its head, if it offered another protocol
        self._reading: Cycle | None = None
        self._head_since = 0.0  # when a part of its head was first seen; 0 = not yet
        self._pace: Pace | None = None  # of its body, once it takes a while
        # Those that have been.
        self._answering: Cycle | None = None
        self._waiting: deque[Cycle] = deque()

    # --- for the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.write, self.writelines = self._transport.write, self._transport.writelines
        self._parser = self._fresh_parser()
        self._client, self._server = address_of(transport, "peername"), address_of(transport, "sockname")
        self._state.connections.add(self)  # type: ignore[arg-type] # the set names uvicorn's own protocols
        door, limits = self._door, self._limits
        door.counts.requests = self._state.tasks
        try:
            refused = door.enter(self, None if self._client is None else self._client[0])
        except ConnectionRefusedError:
            self._transport.abort()
            return
        # As if it had been idle: one that has never asked for anything is not kept for as long as one that has.
        self._since = door.now + limits.header_timeout - limits.keep_alive
        if refused is not None:
            self._refuse(*refused)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._read = len(data)
        self._framing += self._read
        while data:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                self._parser = self._fresh_parser()
                data, self._declined = self._declined + data[upgrade.args[0] :], b""
                continue
            except HttpParserError as error:
                self._refuse(*unreadable(error))
            else:
                self._check_bounds()
            break

    def eof_received(self) -> None:
        self._lost()
        self._close_now()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  it is lost either way
        self._state.connections.discard(self)
        self._door.leave(self)
        self._outflow.release()
        self._lost()
        del self._parser, self.write, self.writelines  # which ends cycles that only the garbage collector could

    def pause_writing(self) -> None:
        self._outflow.full = True
        self._outflow.watch(self._transport, self._give_up)
        if self._answering is not None:
            self._answering.client_full()

    def resume_writing(self) -> None:
        self._outflow.release()
        if self._transport.is_closing() and self._transport.get_write_buffer_size():
            self._outflow.watch(self._transport, self._give_up)
        if self._answering is not None:
            self._answering.client_ready()
        else:
            self._answer_next()

    # --- for the parser

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version = self._parser.get_http_version()
        if self._parser.should_upgrade():
            if self._parser.get_method() == b"CONNECT":
                raise InvalidRequest("CONNECT is for proxies; this is none.")
            self._decline_upgrade(version)
            return
        if len(self._state.tasks) >= self._most_requests and self._url not in _ALWAYS:
            message = f"{self._most_requests} requests are being answered already (api.max_open_requests). Try again."
            raise Overloaded(message, retry_after=2)
        if len(self._waiting) == _MOST_AHEAD:
            raise InvalidRequest(f"More than {_MOST_AHEAD} requests came ahead of their turn.")
        at_once = self._answering is None and not self._outflow.full
        size = self._framing + self._begun
        if size > MOST_HEAD or not at_once:
            size = head_size(self._url, self._headers)
        method = self._parser.get_method().decode("ascii")
        scope = http_scope(method, self._url, version, self._headers, self._client, self._server)
        check_head(scope)
        keep_alive = version != "1.0" and self._parser.should_keep_alive()
        cycle = self._reading = Cycle(self, scope, head_size=size, keep_alive=keep_alive)
        scope["extensions"] = {EXTENSION: cycle}
        self._url, self._headers, self._framing, self._head_since = b"", [], 0, 0.0
        if at_once:
            self._answer(cycle)
        else:
            self._waiting.append(cycle)

    def on_body(self, chunk: bytes) -> None:
        self._framing = 0
        if self._reading is not None:
            self._reading.feed(chunk)

    def on_message_complete(self) -> None:
        if self._headers:  # trailers
            self._headers = []
        self._framing, self._begun = 0, self._read  # an end that comes alone begins no head
        if self._reading is not None:
            self._reading.feed_end()
            self._reading = None

    def _fresh_parser(self) -> HttpRequestParser:
        parser = HttpRequestParser(self)
        # What comes after a request that said `connection: close` is no reason to refuse that request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _decline_upgrade(self, version: str) -> None:
        """Go on as if the other protocol had not been offered; Java's own client offers HTTP/2 to everybody.

        The parser would take what follows for that protocol, the body included. So another one gets the same head
        without the offer.
        """
        lines = [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != b"upgrade"]
        first = b"%b %b HTTP/%b\r\n" % (self._parser.get_method(), self._url, version.encode("ascii"))
        self._declined = first + b"".join(lines) + b"\r\n"
        self._url, self._headers = b"", []

    # --- for a cycle

    @property
    def full(self) -> bool:
        return self._outflow.full

    async def drained(self) -> None:
        await self._outflow.drained()

    def resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def answered(self, cycle: Cycle) -> None:
        self._answering = None
        self._since = self._door.now
        if not cycle.keep_alive:
            self.close()
            return
        if self._reading_paused:
            self.resume_reading()
        if self._waiting:
            self._answer_next()

    def close(self) -> None:
        if self._transport.is_closing() or (self._reading is None and not self._deaf):
            self._close_now()
            return
        self._deaf, self._since = True, self._door.now
        self._reading = self._answering = None
        self._waiting.clear()
        self.resume_reading()
        self._transport.write_eof()
        self._watch_the_rest()

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    # --- for the door

    def look(self, now: float, haste: int) -> None:
        reading, answering = self._reading, self._answering
        if reading is not None and reading is answering:
            self._look_at_body(reading)
            return
        self._pace = None
        if answering is not None or self._waiting:
            return  # what its client does not take is watched by the outflow
        if self._deaf or reading is not None:
            if now - self._since > _LINGER_SEC:
                self._close_now()
        elif self._framing:
            self._look_at_head(now)
        elif now - self._since > self._limits.keep_alive / haste + self._door.tick:
            self._close_now()

    def _look_at_head(self, now: float) -> None:
        if not self._head_since:
            self._head_since = now
        elif now - self._head_since > self._limits.header_timeout:
            error = RequestTimeout("The request's head came too slowly (api.header_timeout_sec).")
            self._refuse(error, "header_timeout")

    def _look_at_body(self, cycle: Cycle) -> None:
        """Not while it waits for somebody here to take it, nor for a client that has its answer already."""
        if self._reading_paused or cycle.status:
            return
        if self._pace is None or self._pace.cycle is not cycle:
            self._pace = Pace(cycle, self._limits.body_timeout)
        elif not self._pace.kept(self._door.tick):
            cycle.expire()

    # --- for the server

    @property
    def silent(self) -> bool:
        """Nothing has come so far."""
        return not (self._read or self._deaf or self._transport.is_closing())

    @property
    def lingering(self) -> bool:
        """Its last answer is out, and its client may go on sending for a moment."""
        return self._deaf and not (self._answering or self._waiting or self._transport.get_write_buffer_size())

    def shutdown(self) -> None:
        """Close the connection, once what is being answered has been."""
        if self._answering is not None:
            self._answering.close_soon()
        elif not self.lingering:
            self._close_now()

    # --- for all of them

    def _check_bounds(self) -> None:
        """After each read, which may itself bring any number of small things."""
        if self._framing > _MOST_FRAMING:
            error = HeadersTooLarge(f"A request has more than {_MOST_FRAMING // 1024} KB of headers.")
            self._refuse(error, "head_size")
        elif self._waiting and sum([cycle.held for cycle in self._waiting]) > _MOST_BYTES_AHEAD:
            self._refuse(InvalidRequest(f"More than {_MOST_BYTES_AHEAD // 1024} KB came ahead of their turn."))
        elif self._reading is not None and self._reading.crowded and not self._reading_paused:
            self._reading_paused = True  # until the body is taken, or the response is whole
            self._transport.pause_reading()

    def _answer_next(self) -> None:
        """Not while the client leaves its answers lying: they would pile up."""
        if self._waiting and not self._outflow.full and not self._transport.is_closing():
            self._answer(self._waiting.popleft())

    def _answer(self, cycle: Cycle) -> None:
        self._answering = cycle
        # `create_task` takes a third longer: it makes up a name before it sets this one.
        cycle.task = asyncio.Task(self._run(cycle), loop=self._loop, name="request")
        self._state.tasks.add(cycle.task)

    async def _run(self, cycle: Cycle) -> None:
        try:
            await self._app(cycle.scope, cycle.receive, cycle.send)
        except Exception:  # noqa: BLE001 - nobody awaits this task
            _log.exception("Unexpected error in front of everything that tells errors")
        finally:
            self._state.tasks.discard(cycle.task)
            cycle.give_up()
            del cycle.scope, cycle.task  # which hold the cycle

    def _lost(self) -> None:
        self._waiting.clear()
        if self._answering is not None:
            self._answering.lost()

    def _give_up(self) -> None:
        """The client takes nothing more. An end in order would be taken for that of the answer, on HTTP/1.0."""
        self._lost()
        self.reset()

    def _refuse(self, error: RouterError, reason: Refusal = "malformed") -> None:
        """What came is no request, and what follows on this connection cannot be trusted."""
        self._door.note(reason, self._client[0] if self._client else None, error.message)
        answering = self._answering
        if self._waiting or (answering is not None and (answering.status or not answering.readable)):
            self._turn_deaf()
            return
        if answering is not None:
            answering.lost()
        elif self._reading is not None:  # and has its answer
            self.close()
            return
        self.write(refusal(error, dialect_of(self._url.partition(b"?")[0].decode("latin-1"))))
        self._deaf = True
        self.close()

    def _turn_deaf(self) -> None:
        """Close the connection after the last request that is whole. Until then reading only tells that it is lost."""
        self._deaf = True
        if self._waiting and self._waiting[-1] is self._reading:
            self._waiting.pop()
        last = self._waiting[-1] if self._waiting else self._answering
        if last is None:
            self.close()
        else:
            last.keep_alive = False
            self.resume_reading()

    def _close_now(self) -> None:
        self._transport.close()
        self._watch_the_rest()

    def _watch_the_rest(self) -> None:
        if self._transport.get_write_buffer_size():
            self._outflow.watch(self._transport, self._give_up)
