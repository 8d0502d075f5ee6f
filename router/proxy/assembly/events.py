"""Server-sent events out of the pieces in which a socket brings them."""

from __future__ import annotations

from collections.abc import Iterator


class Events:
    """Cuts a stream into events, each of which has its data in one line, as llama-server writes them."""

    __slots__ = ("_name", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = b""

    @property
    def pending(self) -> int:
        """Bytes held of a line that is not yet whole."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(name, data) of each event that this chunk completes; the name is empty for most."""
        *lines, rest = chunk.split(b"\n")
        if lines and self._rest:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        for line in lines:
            if line.startswith(b"data:"):
                yield self._name, line[5:].strip()
            elif line.startswith(b"event:"):
                self._name = line[6:].strip()
            elif not line.rstrip(b"\r"):
                self._name = b""
