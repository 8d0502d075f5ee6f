"""The far end of a `Connection`: takes an answer and remembers it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.wire.sink import ConnectionBroken, RawHeaders


class RecordingSink:
    """Attributes:
    order: the calls in their order, by name.
    on_body: called after each piece.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        self.status = 0
        self.headers: RawHeaders = []
        self.pieces: list[bytes] = []
        self.error: ConnectionBroken | None = None
        self.on_body: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self._told = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def reason(self) -> str:
        return str(self.error)

    @property
    def outcome(self) -> str:
        """`end`, `broke`, or nothing yet."""
        return self.order[-1] if self._ended.is_set() else ""

    async def ended(self) -> str:
        """Wait for the outcome."""
        async with asyncio.timeout(5):
            await self._ended.wait()
        return self.outcome

    async def head_told(self) -> None:
        async with asyncio.timeout(5):
            await self._told.wait()

    def head(self, status: int, headers: RawHeaders) -> None:
        self._note("head")
        self.status, self.headers = status, headers
        self._told.set()

    def body(self, chunk: bytes) -> None:
        self._note("body")
        assert chunk
        self.pieces.append(chunk)
        if self.on_body is not None:
            self.on_body()

    def end(self) -> None:
        self._note("end")
        self._ended.set()
        if self.on_end is not None:
            self.on_end()

    def broke(self, error: ConnectionBroken) -> None:
        self._note("broke")
        self.error = error
        self._ended.set()

    def _note(self, what: str) -> None:
        if self._ended.is_set():
            raise AssertionError(f"{what} after {self.order}")
        self.order.append(what)
