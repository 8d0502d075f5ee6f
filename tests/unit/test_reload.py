"""Reading the configuration anew from a disk that does not answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.config import Reloaded, Settings, load_settings
from router.errors import ConfigUnread
from router.inventory import Entry, inventory
from router.reload import Reloader
from router.telemetry.reloads import Reloads
from tests.support.waiting import turn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipes in the file system")


class Holder:
    """Holds nothing."""

    accepting = True

    @contextmanager
    def reloading(self) -> Iterator[None]:
        yield

    def in_memory(self) -> Sequence[str]:
        return ()

    def adopt(self, settings: Settings, entries: Sequence[Entry], changed: Sequence[str]) -> None:
        pass

    async def tidy(self) -> None:
        pass


async def in_the_end(reloader: Reloader) -> Reloaded:
    """Once the disk answers again."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await reloader()
            except ConfigUnread:
                await turn()


async def test_a_disk_that_hangs_holds_one_thread_and_nobody_for_ever(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    file, document = tmp_path / "config.json", json.dumps({"models": {"m": {"model_path": "m.gguf"}}})
    file.write_text(document)

    def read() -> Settings:
        return load_settings(environ={}, cwd=tmp_path)

    settings, news = read(), Reloads()
    entries = inventory(settings, gpu_available=False)
    reloader = Reloader(
        settings, entries, read=read, gpu_available=False, holders=Holder(), news=news, asked=asyncio.Event(),
        patience=0.05,
    )  # fmt: skip
    threads = threading.active_count()
    file.unlink()
    os.mkfifo(file)  # whoever reads it waits until somebody writes
    with pytest.raises(ConfigUnread, match=rf"Reading {file}: no answer within 0.05 s.*The old configuration holds"):
        await reloader()
    assert "no answer" in news.refusal
    async with asyncio.timeout(5):
        for _ in range(10):
            with pytest.raises(ConfigUnread, match="an earlier call has not come back"):
                await reloader()
    assert threading.active_count() == threads
    file.write_text(document)
    file.unlink()
    file.write_text(document)
    assert (await in_the_end(reloader)).unchanged == 1
    assert news.refusal == ""
    reloader.close()


async def test_a_file_that_is_being_written_calls_off_one_load_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text(json.dumps({"models": {"m": {"model_path": "m.gguf"}}}))
    settings = load_settings(environ={}, cwd=tmp_path)
    reloader = Reloader(
        settings, inventory(settings, gpu_available=False), read=lambda: settings, gpu_available=False,
        holders=Holder(), news=Reloads(), asked=asyncio.Event(),
    )  # fmt: skip
    try:
        assert not await reloader.renew("m"), "nothing has changed"
        file.write_bytes(b"GGUF and more")
        assert await reloader.renew("m")
        file.write_bytes(b"GGUF and more and more")
        assert not await reloader.renew("m"), "it would go on like this"
        assert not await reloader.renew("another")
    finally:
        reloader.close()


async def test_files_are_looked_at_though_those_of_other_models_hang(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text(json.dumps({"models": {"m": {"model_path": "m.gguf"}}}))
    settings = load_settings(environ={}, cwd=tmp_path)
    reloader = Reloader(
        settings, inventory(settings, gpu_available=False), read=lambda: settings, gpu_available=False,
        holders=Holder(), news=Reloads(), asked=asyncio.Event(),
    )  # fmt: skip
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        hung = asyncio.ensure_future(asyncio.to_thread(release.wait, 30))
        await turn()
        try:
            async with asyncio.timeout(10):
                assert not await reloader.renew("m")
        finally:
            release.set()
            await hung
            reloader.close()
