"""A request on a socket of its own, looked at without waiting, and what became of it."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.support.wire import messages

_RESET = struct.pack("ii", 1, 0)
_NAMED = re.compile(rb'"model": ?"([^"]*)"')


class Asked:
    """One request and whatever comes back.

    Attributes:
        left: its client has hung up.
        closed: the router has ended the connection.

    Args:
        last: the router is told to end the connection afterwards, so that it is heard to the end: a second answer
            would show. Otherwise it is over with the first.
    """

    def __init__(
        self, url: str, method: str, path: str, body: Mapping[str, Any], *, last: bool = False, **headers: str
    ) -> None:
        address = urlsplit(url)
        self.about = f"{method} {path} {json.dumps(body)}"
        self.left = False
        self.closed = False
        self._last = last
        self._model = body.get("model")
        self._raw = bytearray()
        self._socket = socket.create_connection((address.hostname, address.port or 80), timeout=10)
        content = json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
        lines += ["Connection: close"] if last else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
        self._socket.setblocking(False)

    def send(self, share: float = 1.0) -> None:
        """Send it, or only its beginning."""
        self._socket.send(self._request[: int(len(self._request) * share)])

    def leave(self, *, reset: bool = False) -> None:
        """Hang up."""
        self.left = True
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.close()

    def look(self) -> bool:
        """Take in what has come; whether it is over: answered, broken off or left."""
        while not (self.left or self.closed):
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self._raw += data
            if not data:
                self.closed = True
                self._socket.close()
        return self.left or self.closed or (not self._last and self._has_answer())

    def fault(self) -> str:
        """What is wrong with how it ended; empty when all is well. Only once it is over, and its client stayed."""
        answers = messages(bytes(self._raw))
        if len(answers) > 1:
            return f"answered {len(answers)} times"
        if not answers:
            return self._fault_of_break()
        (answer,) = answers
        if self._model and (others := set(_NAMED.findall(answer.body)) - {self._model.encode()}):
            return f"answered for somebody else, who had asked {others}"
        whole = answer.header("content-type").startswith("text/event-stream")
        if whole and not answer.body.endswith(b"data: [DONE]\n\n"):
            return f"a stream ends like a whole one, without having been told: {answer.body[-200:]!r}"
        if not whole:
            json.loads(answer.body)
        return ""

    @property
    def status(self) -> int:
        """Of the answer; 0 when the connection ended without any."""
        return int(self._raw[9:12] or b"0")

    def _has_answer(self) -> bool:
        head, end, body = bytes(self._raw).partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            return body.endswith(b"\r\n0\r\n\r\n")
        return bool(end and messages(bytes(self._raw)))

    def _fault_of_break(self) -> str:
        if not self._raw:
            return "closed without a word"
        if b"content-length:" in self._raw.partition(b"\r\n\r\n")[0].lower():
            return ""  # its client sees that there is less than was announced
        if b"[DONE]" in self._raw:
            return "broken off after it was told that it is whole"
        return "" if b'"error"' in self._raw else f"broken off without a word: {bytes(self._raw[-200:])!r}"
