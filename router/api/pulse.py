"""Keeps the client of a stream patient until the first token: proxies and HTTP clients give up on a silent connection.

As long as nothing has been said the client may still be told an error with a status of its own, which its SDK tries
again by itself. So the first ping, and with it the status 200, comes as late as is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from router.proxy.answer import Answer


class Pulse:
    """Pings every so many seconds while its block runs, until there is content.

    Args:
        every: seconds before the first ping and between two.
        note: what the next one says; one line.
    """

    __slots__ = ("_answer", "_every", "_note", "_timer")

    def __init__(self, answer: Answer, *, every: float, note: Callable[[], str]) -> None:
        self._answer = answer
        self._every = every
        self._note = note
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait()
        return self

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._beat)

    def _beat(self) -> None:
        if self._answer.first_content is None:
            self._answer.ping(self._note())
            self._wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
