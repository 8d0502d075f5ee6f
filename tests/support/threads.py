"""The threads that an event loop has for blocking calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MOST = 32  # that a loop has


@asynccontextmanager
async def no_thread_left() -> AsyncIterator[None]:
    """Each of the running loop's own threads hangs, to the end of the block."""
    release, loop = threading.Event(), asyncio.get_running_loop()
    hung = [loop.run_in_executor(None, release.wait) for _ in range(_MOST)]
    try:
        yield
    finally:
        release.set()
        await asyncio.gather(*hung)
