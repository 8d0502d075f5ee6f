"""A client that goes away ends the work that was done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from router.proxy.downstream import Downstream


class ClientDisconnected(Exception):
    """The client is gone. Never rendered: there is nobody to tell."""


class DisconnectWatch:
    """Cancels the block it guards when the client goes away, and makes a ClientDisconnected of the cancellation.

    A client that goes after the answer's last byte is not told apart from one that stayed. Works as `asyncio.timeout`
    does: a cancellation from elsewhere goes on as one.

    Attributes:
        on_ready: called when the client has caught up.
    """

    __slots__ = ("_before", "_client", "_fired", "_full", "_gone", "_on_full", "_owner", "on_ready")

    def __init__(self, downstream: Downstream) -> None:
        self._client = downstream
        self._owner: asyncio.Task[object] | None = None
        self._before = 0
        self._gone = False
        self._fired = False
        self._full = False
        self._on_full: Callable[[], None] | None = None
        self.on_ready: Callable[[], None] | None = None

    @property
    def on_full(self) -> Callable[[], None] | None:
        """Called when the client reads too slowly; at once, when it did so before somebody asked to be called."""
        return self._on_full

    @on_full.setter
    def on_full(self, call: Callable[[], None] | None) -> None:
        self._on_full = call
        if self._full and call is not None:
            call()

    def __enter__(self) -> Self:
        self._client.watch(self)
        if self._gone:
            raise ClientDisconnected
        self._owner = asyncio.current_task()
        self._before = 0 if self._owner is None else self._owner.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.watch(None)
        owner, self._owner = self._owner, None
        if not self._fired or owner is None:
            return
        if owner.uncancel() <= self._before and kind in {None, asyncio.CancelledError}:
            raise ClientDisconnected from error

    def client_gone(self) -> None:
        self._gone = True
        if self._owner is not None and not self._client.complete:
            self._fired = True
            self._owner.cancel()

    def client_full(self) -> None:
        self._full = True
        if self._on_full is not None:
            self._on_full()

    def client_ready(self) -> None:
        self._full = False
        if self.on_ready is not None:
            self.on_ready()
