"""HTTP/1.1 as bytes: for requests that no client library would send, and for answers as they were on the wire."""

from __future__ import annotations

import json
import select
import socket
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

_DEADLINE = 20.0


@dataclass(frozen=True)
class Message:
    """A request or a response; `body` is without the framing of its transfer encoding."""

    first_line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def as_response(self) -> httpx.Response:
        return httpx.Response(int(self.first_line.split(" ")[1]), headers=self.headers, content=self.body)


class Incomplete(Exception):
    """The bytes end within a message."""


def messages(raw: bytes) -> list[Message]:
    """The complete messages at the start of what one side of a connection has sent."""
    found: list[Message] = []
    while raw:
        try:
            message, raw = _one(raw)
        except Incomplete:
            break
        found.append(message)
    return found


def _one(raw: bytes) -> tuple[Message, bytes]:
    head, end, rest = raw.partition(b"\r\n\r\n")
    if not end:
        raise Incomplete
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    message = Message(first, headers, b"")
    if message.header("transfer-encoding").lower() == "chunked":
        body, rest = _chunks(rest)
    else:
        length = int(message.header("content-length") or 0)
        body, rest = rest[:length], rest[length:]
        if len(body) < length:
            raise Incomplete
    return Message(first, headers, body), rest


def _chunks(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, raw = raw.partition(b"\r\n")
        if not end:
            raise Incomplete
        size = int(line.split(b";")[0], 16)
        if len(raw) < size + 2:
            raise Incomplete
        body, raw = body + raw[:size], raw[size + 2 :]
        if size == 0:
            return body, raw


class Wire:
    """One TCP connection to a router.

    Args:
        buffer: bytes that the kernel keeps of what is not read yet; None = as many as it likes.
    """

    def __init__(self, url: str, *, buffer: int | None = None) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._socket = socket.socket()
        self._socket.settimeout(_DEADLINE)
        if buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.connect((address.hostname, address.port or 80))
        self._received = b""

    @property
    def socket(self) -> socket.socket:
        """To wait for."""
        return self._socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def post(self, path: str, document: Any, *, api_key: str = "") -> None:
        """Send a whole request."""
        body = json.dumps(document).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self.send(f"{head}{key}\r\n".encode() + body)

    def answer(self) -> httpx.Response:
        """The next response, as soon as it is complete. Raises EOFError if the connection ends before."""
        while not messages(self._received):
            self._received += self.read()
        message, self._received = _one(self._received)
        return message.as_response()

    def closed(self) -> bool:
        """Whether the other side closes without another byte; waits for what it does."""
        try:
            self.read()
        except (EOFError, ConnectionResetError):
            return True
        return False

    def silent(self) -> bool:
        """Whether nothing has come that was not read."""
        return not select.select([self._socket], [], [], 0)[0]

    def read(self) -> bytes:
        """What comes next, however little. Raises EOFError at the end."""
        data = self._socket.recv(65536)
        if not data:
            raise EOFError(f"closed after {self._received!r}")
        return data
