"""What the relay must know of an event stream while it passes it on unread."""

from __future__ import annotations

_PING = ord(":")
_BOUNDARIES = (b"\n\n", b"\r\n\r\n")


class EventBoundary:
    """Follows a stream chunk by chunk: does it stand between two events, and was a chunk only a comment?"""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = b"\n\n"

    @property
    def between_events(self) -> bool:
        """True when the last byte seen ended an event, or none was seen yet."""
        return self._end.endswith(_BOUNDARIES)

    def feed(self, chunk: bytes) -> bool:
        """Take note of a chunk (not empty); True if it holds content, False if it is a ping."""
        ping = chunk[0] == _PING and self.between_events and b"\ndata" not in chunk and b"\nevent" not in chunk
        self._end = chunk[-4:] if len(chunk) >= 4 else (self._end + chunk)[-4:]
        return not ping
