"""Reading files ahead, as far as memory goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.backends import read_ahead as module
from router.backends.read_ahead import read_ahead
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such advice")

PIECE = module.PIECE


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two shards: two pieces and a bit, and a bit; holes, which take no disk."""
    made = []
    for name, size in (("a", 2 * PIECE + 5), ("b", 7)):
        made.append(tmp_path / name)
        made[-1].touch()
        os.truncate(made[-1], size)
    return made


async def asked(files: list[Path], *rooms: int) -> list[int]:
    """The rooms that were left when it asked; the last one stays."""
    left = list(rooms)
    seen: list[int] = []

    def room() -> int:
        seen.append(left.pop(0) if len(left) > 1 else left[0])
        return seen[-1]

    await read_ahead(files, room)
    return seen


async def test_all_files_are_read_in_pieces(files: list[Path]) -> None:
    assert len(await asked(files, 3 * PIECE)) == 4


async def test_it_ends_where_memory_does(files: list[Path]) -> None:
    assert len(await asked(files, PIECE)) == 2
    assert len(await asked(files, 0)) == 1


async def test_memory_that_somebody_takes_meanwhile_is_seen(files: list[Path]) -> None:
    assert await asked(files, 3 * PIECE, 2 * PIECE, 1) == [3 * PIECE, 2 * PIECE, 1]


async def test_a_file_that_is_gone_ends_it(files: list[Path], tmp_path: Path) -> None:
    assert len(await asked([files[1], tmp_path / "gone", files[0]], 3 * PIECE)) == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")
async def test_the_file_is_in_the_page_cache_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(os.urandom(1 << 20))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    await read_ahead([file], lambda: 1 << 30)
    wait_until(lambda: is_cached(file), what="the file in the page cache")


def is_cached(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            return os.preadv(opened.fileno(), [bytearray(1 << 16)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
