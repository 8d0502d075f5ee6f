"""Has files read into the page cache before a child asks for them: its load then waits for memory, not for the disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

# Small enough to stop soon.
PIECE = 32 * 1024**2
# For one such call Linux reads no more than its device reads ahead (`read_ahead_kb`), and drops the rest without a
# word; that is 128 KiB where nobody has changed it.
_AT_ONCE = 128 * 1024


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
            size = (await asyncio.to_thread(file.stat)).st_size
            for start in range(0, size, PIECE):
                length = min(PIECE, size - start)
                if done + length > room():
                    return
                await asyncio.to_thread(_read, file, start, start + length)
                done += length
        except OSError:
            return  # its load will say why


def _read(file: Path, start: int, end: int) -> None:
    """Opens it anew each time: the thread goes on when nobody waits for it any more."""
    with file.open("rb", buffering=0) as opened:
        for offset in range(start, end, _AT_ONCE):
            os.posix_fadvise(opened.fileno(), offset, min(_AT_ONCE, end - offset), os.POSIX_FADV_WILLNEED)
