"""Blocking calls on a thread of their own, behind a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_WAITING_CALLS = 64


# Has a call made elsewhere, after those before it; False if it will not be made.
Post = Callable[[Callable[[], object]], bool]


class Worker:
    """One thread that makes blocking calls one after the other.

    Not a ThreadPoolExecutor: that one is joined when the interpreter ends, so a driver that hangs would keep the router
    from ending. This thread is a daemon, and while a call hangs, further calls fail at once.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue(_MAX_WAITING_CALLS)
        self._current: Future[Any] | None = None
        self._waited: tuple[Future[Any] | None, float] = (None, 0.0)  # for which call in vain, and how many seconds
        self._stopped = False
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    async def run(self, call: Callable[[], T], deadline: float) -> T:
        """The result of `call`, or what it raises. TimeoutError after `deadline` seconds; the call itself goes on."""
        if self._stopped:
            raise RuntimeError("the worker was stopped")
        late, waited = self._waited
        if late is not None and late is self._current and deadline <= waited:
            raise TimeoutError("an earlier call has not come back")
        future: Future[T] = Future()
        try:
            self._calls.put_nowait((call, future))
        except queue.Full:
            raise TimeoutError("too many calls wait") from None
        limit = asyncio.timeout(deadline)
        try:
            async with limit:
                return await asyncio.wrap_future(future)
        finally:
            if limit.expired():
                self._waited = (self._current, deadline)

    def post(self, call: Callable[[], object]) -> bool:
        """Make this call as well, after those that wait; nobody waits for it, so it has to tell of its own mistakes.

        False if it is not made, as too many calls wait or the worker was stopped.
        """
        with contextlib.suppress(queue.Full):
            if not self._stopped:
                self._calls.put_nowait((call, Future()))
                return True
        return False

    def stop(self) -> None:
        """End the thread after the calls that wait; does not wait for it. Later calls raise RuntimeError."""
        self._stopped = True
        with contextlib.suppress(queue.Full):  # then it hangs, and ends with the interpreter
            self._calls.put_nowait(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            if not future.set_running_or_notify_cancel():
                continue
            self._current = future
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001  handed to whoever waits
                future.set_exception(error)
            finally:
                self._current = None


async def apart(call: Callable[[], T]) -> T:
    """The result of a blocking call on a thread of its own; the thread ends with it, or with the process.

    For what may hang while nobody else should: the event loop's own threads are few, and each of them that hangs on one
    disk is missing for all others.
    """
    future: Future[T] = Future()

    def make() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001  handed to the one who waits
            future.set_exception(error)

    threading.Thread(target=make, name="apart", daemon=True).start()
    return await asyncio.wrap_future(future)


class Errand:
    """A call that is made soon after it was asked for: once for all who ask before it begins."""

    def __init__(self, call: Callable[[], object], post: Post) -> None:
        self._call = call
        self._post = post
        self._asked = False

    def ask(self) -> None:
        """For one thread. What cannot be done now is left for the next who asks."""
        if not self._asked:
            self._asked = True  # before it can begin
            if not self._post(self._make):
                self._asked = False

    def _make(self) -> None:
        self._asked = False  # whoever asks from now on means what has changed since
        self._call()
