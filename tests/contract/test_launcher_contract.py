"""What every Launcher and Child promises (router/engine/ports.py), held against each llama-server there is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.core.types import HOST, Placement
from router.engine.ports import Child, Launcher, LaunchError
from tests.fakes.fake_binary import make_fake_binary
from tests.support.models import FLAGS, Models
from tests.support.router import free_port
from tests.support.waiting import turn

ON_CPU = Placement({HOST: 1})


REAL_BINARY = os.environ.get("LLAMA_SERVER_PATH", "")
KINDS = [
    "fake",
    pytest.param("embedded", marks=pytest.mark.llama),
    *([pytest.param("binary", marks=pytest.mark.llama)] if REAL_BINARY else []),
]


@pytest.fixture(params=KINDS)
async def launcher(
    request: pytest.FixtureRequest, tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Launcher]:
    kind = request.param
    binary = {"fake": make_fake_binary(tmp_path), "embedded": None, "binary": Path(REAL_BINARY)}[kind]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    broken = ("--exit-code", "1") if kind == "fake" else FLAGS
    slow = ("--token-delay", "0.02") if kind == "fake" else FLAGS
    launcher = LlamaServerLauncher(
        {
            "org/slow:q4": LlamaServerSpec(models.slow, slots=2, flags=slow),
            "corrupt": LlamaServerSpec(models.corrupt, flags=broken),
            "pipe": LlamaServerSpec(models.slow, companions=(tmp_path / "pipe.gguf",)),
        },
        state_dir=tmp_path / "state",
        base_port=free_port(),
        binary=binary,
        cache_ram_mb=16,
    )
    yield launcher
    await launcher.close()


@pytest.fixture
async def child(launcher: Launcher) -> AsyncIterator[Child]:
    child = await launcher.launch("org/slow:q4", 1, ON_CPU)
    async with asyncio.timeout(30):
        assert await child.ready() == 2
    yield child
    await child.stop(grace=0)


async def ask(child: Child, **fields: object) -> tuple[int, str]:
    upstream = child.upstream
    async with httpx.AsyncClient(base_url=upstream.url, timeout=30) as client:
        answer = await client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, **fields},
            headers={"authorization": upstream.authorization},
        )
    return answer.status_code, answer.text


async def test_it_serves_under_its_alias(child: Child) -> None:
    status, text = await ask(child)
    assert status == 200
    assert '"org/slow:q4"' in text


async def test_it_streams(child: Child) -> None:
    status, text = await ask(child, stream=True)
    assert status == 200
    assert text.startswith("data: ")
    assert text.endswith("data: [DONE]\n\n")


async def test_nobody_else_may_use_it(child: Child) -> None:
    async with httpx.AsyncClient(base_url=child.upstream.url) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert (await client.get("/props", headers=headers)).status_code == 401


async def test_it_is_healthy_while_it_lives(child: Child) -> None:
    assert await child.healthy()
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    assert not await child.healthy()
    with pytest.raises(OSError, match="/slots"):
        await child.slots()


async def test_its_slots_show_progress(child: Child) -> None:
    assert [(slot.id, slot.busy) for slot in await child.slots()] == [(0, False), (1, False)]
    asking = asyncio.create_task(ask(child, max_tokens=200, ignore_eos=True))
    seen: set[int] = set()
    async with asyncio.timeout(30):
        while len(seen) < 3:
            seen |= {slot.progress for slot in await child.slots() if slot.busy}
    assert len({slot.task for slot in await child.slots() if slot.busy}) == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_its_end_is_told_to_all_who_wait(child: Child) -> None:
    waiters = [asyncio.create_task(child.wait()) for _ in range(3)]
    os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(1):
        ends = await asyncio.gather(*waiters)
    assert {end.code for end in ends} == {-9}
    assert await child.wait() == ends[0]
    assert "SIGKILL" in ends[0].reason


async def test_a_waiter_may_leave(child: Child) -> None:
    waiter = asyncio.create_task(child.wait())
    await turn()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert await child.healthy()


async def test_stop_is_idempotent(child: Child) -> None:
    async with asyncio.timeout(5):
        ends = await asyncio.gather(*(child.stop(grace=4) for _ in range(3)))
    assert ends[0] == ends[1] == ends[2] == await child.stop(grace=4)
    assert child.upstream.pool.closed


async def test_it_says_what_it_did(child: Child) -> None:
    assert "listening" in child.tail(200)
    assert len(child.tail(1).splitlines()) == 1


async def test_a_model_that_cannot_be_loaded_says_why(launcher: Launcher) -> None:
    child = await launcher.launch("corrupt", 1, ON_CPU)
    with pytest.raises(LaunchError, match=r"exited with code 1: .*error loading model"):
        async with asyncio.timeout(30):
            await child.ready()
    assert (await child.wait()).code == 1
    await child.stop(grace=0)


async def test_where_nothing_is_kept_nothing_is_saved(child: Child) -> None:
    assert await child.restore_conversations() == 0
    await ask(child)
    assert await child.save_conversations() == 0


async def test_saving_and_restoring_never_raise(child: Child) -> None:
    await child.stop(grace=0)
    assert await child.save_conversations() == await child.restore_conversations() == 0


async def test_what_is_no_file_is_refused_at_once(launcher: Launcher, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(LaunchError, match=r"pipe\.gguf is not a file"):
        await launcher.launch("pipe", 1, ON_CPU)


async def test_reading_ahead_ends_by_itself(launcher: Launcher) -> None:
    rooms = [1 << 40, 0]
    async with asyncio.timeout(5):
        for room in rooms:
            await launcher.read_ahead("org/slow:q4", lambda room=room: room)  # type: ignore[misc]


async def test_two_replicas_have_ports_of_their_own(launcher: Launcher, child: Child) -> None:
    other = await launcher.launch("org/slow:q4", 2, ON_CPU)
    async with asyncio.timeout(30):
        await other.ready()
    assert other.port != child.port
    await other.stop(grace=0)
    assert await child.healthy()
