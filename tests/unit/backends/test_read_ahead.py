"""Reading files ahead, as far as memory goes."""

from __future__ import annotations

import ctypes
import os
from mmap import ACCESS_COPY, PAGESIZE, mmap
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
async def test_all_of_the_file_is_in_the_page_cache_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(os.urandom(1 << 20) * 40)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(file) > 0.1:
        pytest.skip("this file system lives in memory")
    await read_ahead([file], lambda: 1 << 30)
    wait_until(lambda: cached(file) == 1, what="the file in the page cache")


def cached(file: Path) -> float:
    """The share of its pages that are in the page cache. To ask by reading, even without waiting, has them read."""
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        answer = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), pages)
        del start  # a mapping that is looked into cannot be closed
        assert answer == 0
        return sum(page & 1 for page in pages) / len(pages)
