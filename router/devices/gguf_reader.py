"""The values of a GGUF file one after another, never past its end or the bounds of a header."""

from __future__ import annotations

import struct
from typing import BinaryIO

MAX_HEADER_BYTES = 128 * 1024**2  # the largest real ones (260k tokens and their merges) have about 20 MiB
MAX_SKIPPED_STRINGS = 2_000_000  # bounds the time: about 0.1 µs each; the largest real vocabularies have 800k

_CHUNK = 1024**2
_U64 = struct.Struct("<Q")


class Malformed(Exception):
    """What is wrong with the content; becomes a GgufError once the file's name is known."""


class Reader:
    """Little-endian values from a file, in chunks. Whatever lies past its end or a bound raises Malformed.

    Attributes:
        size: of the file, in bytes.
        where: what is being read, for a complaint.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._base = 0  # the file's offset of the chunk
        self._chunk = b""
        self._at = 0  # in the chunk; may lie behind its end after a skip
        self._skipped = 0
        self.where = "the header"

    @property
    def position(self) -> int:
        """Bytes read or skipped so far."""
        return self._base + self._at

    def bytes(self, count: int) -> bytes:
        """The next so many."""
        if self._at + count > len(self._chunk):
            self._fill(count)
        piece = self._chunk[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, code: str) -> int:
        """A whole number of this `struct` code."""
        return int(struct.unpack(f"<{code}", self.bytes(struct.calcsize(code)))[0])

    def string(self, limit: int, what: str) -> str:
        """A string of at most `limit` bytes; what is not UTF-8 in it is replaced."""
        length = self.number("Q")
        if length > limit:
            raise Malformed(f"{what} is {length:,} bytes long; at most {limit:,} are allowed")
        return self.bytes(length).decode("utf-8", errors="replace")

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        self._at += count
        self._check(0)

    def skip_strings(self, count: int) -> None:
        """Pass over so many strings, without making objects of them."""
        self._skipped += count
        if self._skipped > MAX_SKIPPED_STRINGS:
            raise Malformed(f"its arrays up to {self.where} hold more than {MAX_SKIPPED_STRINGS:,} strings")
        length_at = _U64.unpack_from
        while count:
            if self._at + 8 > len(self._chunk):
                self._fill(8)
            chunk, at, last = self._chunk, self._at, len(self._chunk) - 8
            while count and at <= last:
                at += 8 + length_at(chunk, at)[0]
                count -= 1
            self._at = at
            self._check(0)

    def _fill(self, count: int) -> None:
        self._check(count)
        self._base, self._at = self.position, 0
        self._file.seek(self._base)
        self._chunk = self._file.read(max(count, _CHUNK))
        if len(self._chunk) < count:
            raise Malformed("became shorter while it was read; is it still being downloaded?")

    def _check(self, count: int) -> None:
        end = self.position + count
        if end > self.size:
            raise Malformed(f"cut short: {self.where} goes on after the file's {self.size:,} bytes; download it again")
        if end > MAX_HEADER_BYTES:
            raise Malformed(f"its header is longer than {MAX_HEADER_BYTES:,} bytes")
