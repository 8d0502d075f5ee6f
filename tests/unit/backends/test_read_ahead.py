"""Reading files ahead, as far as memory goes."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import pytest

from router.backends import read_ahead as module
from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.backends.read_ahead import read_ahead
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such advice")

PIECE = module.PIECE


@pytest.fixture
def on_a_disk(tmp_path: Path) -> Path:
    """A folder whose files can be read ahead at all."""
    file = tmp_path / "probe"
    file.touch()
    os.truncate(file, mmap.PAGESIZE)
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, mmap.PAGESIZE, os.POSIX_FADV_WILLNEED)
    try:
        wait_until(lambda: cached(file) == 1, deadline=1)
    except TimeoutError:
        pytest.skip("nothing can be read ahead on this file system: its files are in memory, as on tmpfs")
    return tmp_path


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


@pytest.mark.skipif(sys.platform != "linux", reason="others have no mincore, or another")
async def test_all_of_the_file_is_in_the_page_cache_afterwards(on_a_disk: Path) -> None:
    file = on_a_disk / "model"
    file.touch()
    os.truncate(file, PIECE + 12345)
    assert cached(file) < 0.1
    await read_ahead([file], lambda: 1 << 30)
    wait_until(lambda: cached(file) == 1, what="the whole file in the page cache")


@pytest.mark.skipif(sys.platform != "linux", reason="others have no mincore, or another")
async def test_all_that_a_load_reads_is_read_ahead(on_a_disk: Path) -> None:
    files = [on_a_disk / name for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj", "lora", "draft")]
    for file in files:
        file.touch()
        os.truncate(file, 54321)
    spec = LlamaServerSpec(files[0], files=tuple(files[:2]), companions=tuple(files[2:]))
    launcher = LlamaServerLauncher({"m": spec}, state_dir=on_a_disk / "state")
    await launcher.read_ahead("m", lambda: 1 << 40)
    await launcher.close()
    wait_until(lambda: all(cached(file) == 1 for file in files), what="all of them in the page cache")


def cached(file: Path) -> float:
    """The part of its pages that are in the page cache. To read some of them would fetch more."""
    pages = -(-file.stat().st_size // mmap.PAGESIZE)
    there = (ctypes.c_ubyte * pages)()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), there)
        del start  # it would keep the mapping open
    assert not failed
    return sum(page & 1 for page in there) / pages
