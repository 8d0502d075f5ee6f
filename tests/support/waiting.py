"""Waiting for something to become true, without naps."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable

_POLL_SEC = 0.01


async def turn() -> None:
    """Let everything else that is ready on the loop run once."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


async def until(met: Callable[[], bool], deadline: float = 5.0) -> None:
    """Wait until `met()`, looking after every turn of the loop. Raises TimeoutError."""
    async with asyncio.timeout(deadline):
        while not met():
            await turn()


def wait_until(met: Callable[[], bool], deadline: float = 10.0, what: str = "the condition") -> None:
    """The same for things outside this process, which no event announces. Raises TimeoutError."""
    end = time.monotonic() + deadline
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not met within {deadline:g} s")
        select.select([], [], [], _POLL_SEC)
