"""Has files read into the page cache before a child asks for them: its load then waits for memory, not for the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from router.worker import apart

# Small enough to stop soon.
PIECE = 32 * 1024**2
# Of one advice Linux reads no more than the disk's own read-ahead or its largest request, and drops the rest without a
# word (`force_page_cache_ra`). It is 128 KiB for a disk that nobody has tuned, and for network file systems.
_ADVICE = 128 * 1024


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
            size = (await apart(file.stat)).st_size
            for start in range(0, size, PIECE):
                length = min(PIECE, size - start)
                if done + length > room():
                    return
                await apart(partial(_read, file, start, length))
                done += length
        except OSError:
            return  # its load will say why


def _read(file: Path, start: int, length: int) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for position in range(start, start + length, _ADVICE):
            os.posix_fadvise(descriptor, position, min(_ADVICE, start + length - position), os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
