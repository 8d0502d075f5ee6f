"""Several replicas of one model, with fake children."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from router.core.affinity import marks_of
from router.core.types import Priority, Status
from router.engine.lease import Lease
from router.errors import ModelEjected
from tests.support.drive import cpu_model

pytestmark = pytest.mark.anyio
HOT = replace(cpu_model("a"), max_replicas=2)
KEPT = replace(cpu_model("a"), min_replicas=2, max_replicas=2)


async def two(b: Any, stack: AsyncExitStack) -> tuple[Lease, Lease]:
    """Ask until there are two replicas; a lease on each of them."""
    asked = [asyncio.create_task(b.engine.lease("a", Priority.NORMAL)) for _ in range(2)]
    first, second = await asyncio.gather(*asked)
    return stack.enter_context(first), stack.enter_context(second)


async def test_a_line_gets_a_second_child(bench: Any) -> None:
    async with bench(models=[HOT]) as b, AsyncExitStack() as stack:
        first, second = await two(b, stack)
        assert (first.replica, second.replica) == (1, 2)
        assert first.upstream is not second.upstream
        view = b.engine.view("a")
        assert (view.slots, view.busy, view.ready_replicas) == (2, 2, 2)
        assert [b.engine.port(one.id) for one in view.replicas] == [9001, 9002]
        assert [b.engine.pid(one.id) for one in view.replicas] == [100_001, 100_002]
        assert b.engine.upstream("a") is first.upstream
        first.finish()
        second.finish()


async def test_those_that_are_kept_are_loaded_at_the_start(bench: Any) -> None:
    async with bench(models=[KEPT]) as b:
        await b.until(lambda: b.engine.view("a").ready_replicas == 2)
        assert b.launcher.models == ["a", "a"]


async def test_a_follow_up_finds_its_replica(bench: Any) -> None:
    async with bench(models=[KEPT]) as b:
        await b.until(lambda: b.engine.view("a").ready_replicas == 2)
        with await b.engine.lease("a", Priority.NORMAL) as other:
            with await b.engine.turn("a", Priority.NORMAL, marks=marks_of(b"x" * 600)).lease() as told:
                told.finish()
            other.finish()
        with await b.engine.turn("a", Priority.NORMAL, marks=marks_of(b"x" * 900)).lease() as again:
            again.finish()
        assert other.replica != told.replica
        assert again.replica == told.replica


async def test_the_death_of_one_is_seen_and_the_other_serves_on(bench: Any) -> None:
    async with bench(models=[HOT]) as b, AsyncExitStack() as stack:
        first, second = await two(b, stack)
        b.launcher.children[0].die()
        assert await b.engine.wait_gone("a", first.replica, timeout=5)
        assert not await b.engine.wait_gone("a", second.replica, timeout=0.01)
        assert b.engine.view("a").status is Status.READY
        assert b.engine.upstream("a") is second.upstream
        assert b.seen.restarts == ["a"]
        second.finish()


async def test_a_second_one_that_fails_to_load_is_counted_and_harms_nobody(bench: Any) -> None:
    async with bench(models=[HOT]) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            b.launcher.ready_at_once = False
            waiting = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
            await b.until(lambda: len(b.launcher.children) == 2)
            b.launcher.children[1].die("no room")
            await b.until(lambda: ("a", False) in b.seen.loads)
            assert b.engine.view("a").status is Status.READY
            assert not waiting.done()
            lease.finish()
        with await waiting as lease:
            lease.finish()


async def test_ejecting_means_all_of_them(bench: Any) -> None:
    async def work(b: Any) -> None:
        with await b.engine.lease("a", Priority.NORMAL):
            await asyncio.get_running_loop().create_future()

    async with bench(models=[KEPT]) as b:
        await b.until(lambda: b.engine.view("a").ready_replicas == 2)
        working = [asyncio.create_task(work(b)) for _ in range(2)]
        await b.until(lambda: b.engine.view("a").busy == 2)
        await b.engine.eject("a", force=True)
        ended = await asyncio.gather(*working, return_exceptions=True)
        assert [type(error) for error in ended] == [ModelEjected, ModelEjected]
        assert b.engine.view("a").status is Status.OFF
        assert [bool(child.stops) for child in b.launcher.children] == [True, True]
