"""Has files read into the page cache before a child asks for them: its load then waits for memory, not for the disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

# Small enough to stop soon; the kernel reads each piece in one go.
PIECE = 32 * 1024**2


async def read_ahead(files: Sequence[Path], room: Callable[[], int]) -> None:
    """Read these files in their order, as far as free memory goes. Ends early where a file or the system cannot.

    What has been read counts as free again in the system's figures, so it is held against `room` here.

    Args:
        room: bytes of RAM that nobody uses, now.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    done = 0
    for file in files:
        try:
            descriptor = await asyncio.to_thread(os.open, file, os.O_RDONLY)
        except OSError:
            return  # its load will say why
        try:
            size = os.fstat(descriptor).st_size
            for start in range(0, size, PIECE):
                length = min(PIECE, size - start)
                if done + length > room():
                    return
                await asyncio.to_thread(_read, descriptor, start, length)
                done += length
        finally:
            os.close(descriptor)


def _read(descriptor: int, start: int, length: int) -> None:
    os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)
