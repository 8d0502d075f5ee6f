"""Wakes those who wait for something to have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class News:
    """Whoever waits looks again each time that there is any; what there is to see is looked up elsewhere."""

    def __init__(self) -> None:
        self._any = asyncio.Event()

    def spread(self) -> None:
        """Something has changed."""
        self._any.set()
        self._any = asyncio.Event()

    async def until(self, met: Callable[[], bool], *, timeout: float | None = None) -> bool:
        """Wait until it is so; False when it still is not after `timeout` seconds. Passes on what `met` raises."""
        try:
            async with asyncio.timeout(timeout):
                while not met():
                    await self._any.wait()
        except TimeoutError:
            return False
        return True
