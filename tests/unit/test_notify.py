"""What systemd hears: real datagrams on a real socket."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.notify import Notifier, keep_alive
from tests.support.sd_notify import Manager

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagrams")


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "path":
        return str(tmp_path / "notify")
    if sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    return f"@llama-router-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    with Manager(address) as found:
        yield found


def test_each_message(address: str, manager: Manager) -> None:
    notifier = Notifier(address)
    notifier.ready("serving 2 model(s)")
    assert manager.hear() == ["READY=1", "STATUS=serving 2 model(s)"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    kind, clock, status = manager.hear()
    assert (kind, status) == ("RELOADING=1", "STATUS=reading the configuration")
    assert before <= int(clock.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.stopping(30.5)
    assert manager.hear()[:2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30500000"]
    notifier.alive()
    assert manager.hear() == ["WATCHDOG=1"]


def test_the_variables_are_taken_out_of_the_environment(address: str, manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "1"}
    notifier = Notifier.from_environment(environ)
    assert environ == {"OTHER": "1"}
    assert notifier.watchdog_sec == 3.0
    notifier.alive()
    assert manager.hear() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_watches(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ)
    assert notifier.watchdog_sec is None
    notifier.ready("to nobody")


def test_a_manager_that_is_gone_or_does_not_listen_costs_a_warning(
    address: str, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(address)
    while not caplog.messages:  # until its queue is full; then nothing blocks
        notifier.alive()
    assert re.match("systemd was not told WATCHDOG=1: ", caplog.messages[0])
    Notifier("/nowhere/at/all").ready("")
    assert "systemd was not told READY=1: No such file or directory" in caplog.messages


async def test_it_is_kept_alive_only_while_all_is_well(
    address: str, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    troubles: list[str] = []

    def ask() -> list[str]:
        asked.put_nowait(None)
        return troubles

    keeping = asyncio.create_task(keep_alive(Notifier(address, watchdog_sec=0.02), ask))
    try:
        for _ in range(3):
            assert await manager.hear_soon() == ["WATCHDOG=1"]
        troubles.append("a request has waited 60 s beside free slots")
        async with asyncio.timeout(5):
            while "beside free slots" not in caplog.text:
                await asked.get()
        manager.forget()
        while asked.qsize():
            await asked.get()
        async with asyncio.timeout(5):
            for _ in range(3):
                await asked.get()
        with pytest.raises(BlockingIOError):
            manager.hear()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_without_a_watchdog_nothing_is_said() -> None:
    await keep_alive(Notifier(), lambda: ["never asked"])
