"""Requests that ask again, on an engine with real tasks and fake children."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.core.types import Policy, Priority, Status
from router.engine.turn import Turn
from router.errors import ModelFailed, QueueTimeout
from tests.fakes.launcher import FakeLauncher

pytestmark = pytest.mark.anyio


def positions(*turns: Turn) -> list[int]:
    """1 = next, 0 = does not wait."""
    return [0 if (place := turn.place()) is None else place.position for turn in turns]


async def test_who_comes_back_stands_at_the_head_of_its_class(bench: Any) -> None:
    async with bench(policy=Policy(restart_grace=0.0)) as b:
        turn = b.engine.turn("a", Priority.NORMAL)
        with await turn.lease():
            later = [b.engine.turn("a", Priority.NORMAL) for _ in range(2)]
            waiting = [asyncio.create_task(other.lease()) for other in later]
            await b.until(lambda: b.engine.view("a").queue_depth == 2)
            assert positions(turn, *later) == [0, 1, 2]
            b.launcher.children[0].die()
            assert await b.engine.wait_gone("a", 1, timeout=5)
            again = asyncio.create_task(turn.lease())
            await b.until(lambda: positions(turn) == [1])
            assert positions(*later) == [2, 3]
        lease = await again
        assert lease.replica == 2
        assert not any(task.done() for task in waiting)
        for task in (again, *waiting):
            with await task as lease:
                lease.finish()


async def test_the_deadline_of_a_request_that_comes_back_is_kept(bench: Any) -> None:
    async with bench(policy=Policy(restart_grace=0.0), launcher=FakeLauncher()) as b:
        turn = b.engine.turn("a", Priority.NORMAL, timeout=0.05)
        with await turn.lease():
            b.launcher.ready_at_once = False
            b.launcher.children[0].die()
            assert await b.engine.wait_gone("a", 1, timeout=5)
        with pytest.raises(QueueTimeout):
            await turn.lease()


async def test_a_pause_after_a_crash_is_waited_out(bench: Any) -> None:
    async with bench(policy=Policy(backoff_base=0.05)) as b:
        turn = b.engine.turn("a", Priority.NORMAL)
        with await turn.lease():
            b.launcher.children[0].die()
            assert await b.engine.wait_gone("a", 1, timeout=5)
        assert b.engine.view("a").status is Status.FAILED
        with await turn.lease() as lease:
            assert lease.replica == 2
            lease.finish()


async def test_a_model_that_has_failed_for_good_is_not_waited_for(bench: Any) -> None:
    async with bench(policy=Policy(failure_limit=1)) as b:
        turn = b.engine.turn("a", Priority.NORMAL)
        with await turn.lease():
            b.launcher.children[0].die("out of memory")
            assert await b.engine.wait_gone("a", 1, timeout=5)
        with pytest.raises(ModelFailed, match="out of memory"):
            await turn.lease()


async def test_a_replica_that_lives_is_not_waited_for_longer_than_that(bench: Any) -> None:
    async with bench() as b:
        with await b.engine.turn("a", Priority.NORMAL).lease() as lease:
            assert not await b.engine.wait_gone("a", lease.replica, timeout=0.01)
            lease.finish()
        assert await b.engine.wait_gone("a", 99, timeout=0.01)
