"""The event bus behind the live status stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from router.core.types import ModelView

QUEUE_LIMIT = 256


class Subscription:
    """One listener's queue. Iterating yields views in the order of the changes.

    `None` stands for "take a fresh snapshot now": it comes first, and again in place of updates that a slow listener
    did not fetch in time. A snapshot taken before the next `await` misses nothing: every later change is queued.
    """

    __slots__ = ("_closed", "_limit", "_stale", "_views", "_wake")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._views: deque[ModelView] = deque()
        self._stale = True
        self._closed = False
        self._wake = asyncio.Event()

    def offer(self, view: ModelView) -> None:
        """Queue a change; a snapshot that is still to be taken covers it anyway."""
        if self._stale:
            return
        if len(self._views) >= self._limit:
            self.spoil()
        else:
            self._views.append(view)
            self._wake.set()

    def spoil(self) -> None:
        """A fresh snapshot is to take the place of all that is queued."""
        self._views.clear()
        self._stale = True
        self._wake.set()

    def close(self) -> None:
        """End the iteration, queued views unseen."""
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelView | None:
        while not self._closed:
            if self._stale:
                self._stale = False
                return None
            if self._views:
                return self._views.popleft()
            self._wake.clear()
            await self._wake.wait()
        raise StopAsyncIteration


class StatusBus:
    """Hands every change of a model's view to all who listen; belongs to one event loop.

    `close()` must be called when the server is told to exit, not after its connections have ended: the streams are
    connections, and end by it.
    """

    def __init__(self, *, queue_limit: int = QUEUE_LIMIT) -> None:
        self._queue_limit = queue_limit
        self._subscriptions: set[Subscription] = set()
        self._closed = asyncio.Event()

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def publish(self, view: ModelView) -> None:
        """Tell all listeners; never blocks."""
        for subscription in self._subscriptions:
            subscription.offer(view)

    def refresh(self) -> None:
        """Have all listeners take a fresh snapshot: more has changed than a view tells."""
        for subscription in self._subscriptions:
            subscription.spoil()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Listen for as long as the block runs."""
        subscription = Subscription(self._queue_limit)
        if self._closed.is_set():
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End all streams, the present and the future ones; idempotent."""
        self._closed.set()
        for subscription in self._subscriptions:
            subscription.close()

    async def wait_closed(self, timeout: float) -> bool:
        """Wait until `close()`, at most `timeout` seconds; returns whether it is closed."""
        try:
            async with asyncio.timeout(timeout):
                return await self._closed.wait()
        except TimeoutError:
            return False
