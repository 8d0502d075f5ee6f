"""A client that goes away ends the work that was done for it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from router.proxy.answer import Answer

# Most answers of a ready model to a small question are over by then and need no watcher at all.
_GRACE_SEC = 0.05


class ClientDisconnected(Exception):
    """The client is gone. Never rendered: there is nobody to tell."""


class DisconnectWatch:
    """Cancels the block it guards when the client goes away, and makes a ClientDisconnected of the cancellation.

    To be entered once the request's body has been read to its end, since it takes over `receive`. A client that goes
    after the answer's last byte is not told apart from one that stayed. Works as `asyncio.timeout` does: a
    cancellation from elsewhere goes on as one.

    Args:
        grace: seconds before it begins to watch, since a task for each request would be a good part of its cost.
    """

    __slots__ = ("_answer", "_fired", "_grace", "_owner", "_receive", "_timer", "_watcher")

    def __init__(self, receive: Receive, answer: Answer, *, grace: float = _GRACE_SEC) -> None:
        self._receive = receive
        self._answer = answer
        self._grace = grace
        self._fired = False
        self._owner: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._grace, self._start)
        return self

    def _start(self) -> None:
        self._watcher = asyncio.create_task(self._watch(), name="disconnect watch")

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answer.complete and self._owner is not None:
            self._fired = True
            self._owner.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watcher, owner = self._watcher, self._owner
        if self._timer is not None:
            self._timer.cancel()
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if self._fired and owner is not None and owner.uncancel() <= 0 and kind in {None, asyncio.CancelledError}:
            raise ClientDisconnected from error
