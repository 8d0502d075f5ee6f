"""A llama-server without a model that answers as fast as Python can; run it as a program.

It takes the flags that the router gives to llama-server, serves `/health`, `/props` and `/slots`, refuses a wrong key
when `LLAMA_API_KEY` is set, and answers everything else with prepared bytes. `/given-up` tells when which streams lost
their client, by their tags. Like llama-server it closes the
connection after each stream while it advertises keep-alive, and decodes all streams in step: on every turn of the loop
each one gets its next chunk, in a write of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from functools import lru_cache
from typing import cast

import uvloop

from benchmarks.machine import pin
from benchmarks.script import MODEL, Plan, document, events, framed, plan_of, stamped_event, with_stamp

VERSION = "version: 11434 (benchmark)\n"
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_SERVER = b"Keep-Alive: timeout=5, max=100\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n" + _SERVER + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_STAMPED = stamped_event()


def _answer(status: int, body: bytes) -> bytes:
    kind = b"application/json; charset=utf-8"
    head = b"HTTP/1.1 %d OK\r\n%bContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (status, _SERVER, kind, len(body))
    return head + body


_DOCUMENT = _answer(200, document())
_REFUSAL = _answer(401, b'{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}')


@lru_cache(maxsize=64)
def _plan(body: bytes) -> Plan:
    return plan_of(body)


@lru_cache(maxsize=64)
def _writes(chunks: int) -> tuple[bytes, ...]:
    """One for each chunk of a stream; `[DONE]` goes with the end of the body."""
    *chunked, done = map(framed, events(chunks))
    return (*chunked, done + _LAST_CHUNK)


@lru_cache(maxsize=256)
def _head(head: bytes) -> tuple[bytes, int, bytes]:
    """Path, length of the body, key."""
    request_line, *lines = head.split(b"\r\n")
    fields = dict(line.lower().partition(b":")[::2] for line in lines)
    key = next((line.partition(b" ")[2] for line in lines if line.lower().startswith(b"authorization:")), b"")
    return (
        request_line.split(b" ")[1].partition(b"?")[0],
        int(fields.get(b"content-length", b"0")),
        key.partition(b" ")[2].strip(),
    )


class Connection(asyncio.Protocol):
    """One client's connection, a request at a time."""

    def __init__(self, options: argparse.Namespace, key: bytes, streams: set[Stream], given_up: dict[int, int]) -> None:
        self._options = options
        self._key = key
        self._streams = streams
        self._given_up = given_up
        self._stream: Stream | None = None
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        if self._stream is not None:
            self._stream.stop()
            self._streams.discard(self._stream)
            if self._stream.tag:
                self._given_up[self._stream.tag] = time.monotonic_ns()

    def data_received(self, data: bytes) -> None:
        data = self._pending + data if self._pending else data
        end = data.find(_END_OF_HEAD)
        if end < 0:
            self._pending = data
            return
        path, length, key = _head(data[:end])
        if len(data) < end + 4 + length:
            self._pending = data
            return
        self._pending = b""
        self._reply(path, key, data[end + 4 : end + 4 + length])

    def _reply(self, path: bytes, key: bytes, body: bytes) -> None:
        if path == b"/health":
            self.transport.write(_answer(200, b'{"status":"ok"}'))
        elif path == b"/given-up":
            self.transport.write(_answer(200, json.dumps(self._given_up).encode()))
        elif self._key and key != self._key:
            self.transport.write(_REFUSAL)
        elif path == b"/props":
            props = {"total_slots": self._options.parallel, "model_path": self._options.model}
            self.transport.write(_answer(200, json.dumps(props).encode()))
        elif path == b"/slots":
            self.transport.write(_answer(200, json.dumps(self._slots()).encode()))
        else:
            self._generate(_plan(body))

    def _generate(self, plan: Plan) -> None:
        if not plan.stream:
            self.transport.write(_DOCUMENT)
            return
        self._stream = Stream(self.transport, plan)
        self._streams.add(self._stream)
        self._stream.start()

    def _slots(self) -> list[dict[str, object]]:
        busy = len(self._streams)
        return [
            {"id": number, "is_processing": number < busy, "id_task": number, "next_token": [{"n_decoded": 1}]}
            for number in range(self._options.parallel)
        ]


class Stream:
    """One streamed answer."""

    def __init__(self, transport: asyncio.Transport, plan: Plan) -> None:
        self._transport = transport
        self._plan = plan
        self._writes = iter(_writes(plan.chunks))
        self._left = plan.chunks
        self.tag = plan.tag
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._next: asyncio.Handle | None = None

    def start(self) -> None:
        self._transport.write(_STREAM_HEAD)
        if self._plan.pause:
            self._write_stamped()
        else:
            self._write()

    def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _write(self) -> None:
        chunk = next(self._writes, None)
        if chunk is None:
            self._transport.close()
            return
        self._transport.write(chunk)
        self._next = self._loop.call_soon(self._write)

    def _write_stamped(self) -> None:
        if not self._left:
            self._transport.write(framed(b"data: [DONE]\n\n") + _LAST_CHUNK)
            self._transport.close()
            return
        self._left -= 1
        self._transport.write(framed(with_stamp(_STAMPED, time.monotonic_ns())))
        self._due += self._plan.pause
        self._next = self._loop.call_at(self._due, self._write_stamped)


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    key = os.environ.get("LLAMA_API_KEY", "").encode()
    streams: set[Stream] = set()
    given_up: dict[int, int] = {}
    server = await loop.create_server(
        lambda: Connection(options, key, streams, given_up), options.host, options.port, backlog=4096
    )
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    sys.stderr.write(f"main: server is listening on http://{options.host}:{options.port}\n")
    await ended.wait()
    server.close()


def option_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-m", "--model", default="")
    parser.add_argument("-a", "--alias", default=MODEL)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument("--core", type=int, help="run on this core")
    return parser


def main() -> None:
    options, _ = option_parser().parse_known_args()
    if options.version:
        sys.stderr.write(VERSION)
        return
    pin(options.core)
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
