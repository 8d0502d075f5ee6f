"""Requests that ask again, on an engine with real tasks and fake children."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from router.core.types import LinePlace, Policy, Priority, Status, Ticket, TicketId
from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.engine.turn import Turn
from router.errors import ModelFailed, QueueTimeout
from router.wire.pool import Pool
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


async def test_a_piece_stands_behind_those_who_wait_and_is_not_refused(bench: Any) -> None:
    async with bench(policy=Policy(max_queue=2)) as b:
        turn = b.engine.turn("a", Priority.NORMAL)
        with await turn.lease() as lease:
            others = [b.engine.turn("a", Priority.NORMAL) for _ in range(2)]
            waiting = [asyncio.create_task(other.lease()) for other in others]
            await b.until(lambda: b.engine.view("a").queue_depth == 2)
            turn.renew()
            assert positions(*others, turn) == [1, 2, 3]
            lease.finish()
        for task in waiting:
            with await task as lease:
                lease.finish()
        with await turn.lease() as lease:
            assert b.engine.view("a").queue_depth == 0
            lease.finish()


async def test_between_two_pieces_a_model_is_never_idle(bench: Any) -> None:
    async with bench("a", "b", policy=Policy(max_models=1)) as b:
        turn = b.engine.turn("a", Priority.NORMAL)
        with await turn.lease() as lease:
            other = asyncio.create_task(b.engine.lease("b", Priority.NORMAL))
            await b.until(lambda: b.engine.view("b").queue_depth == 1)
            turn.renew()
            lease.finish()
        await asyncio.wait({other}, timeout=0.1)  # far longer than an idle model would be kept
        assert not other.done()
        with await turn.lease() as lease:
            assert lease.replica == 1
            lease.finish()
        with await other as lease:
            lease.finish()
        assert b.seen.evictions == [("a", "b")]


@dataclass
class Desk:
    """Grants at once; `now` is its clock."""

    now: float = 0.0
    tickets: list[Ticket] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def enter(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)

    def ask(self, ticket: Ticket) -> None:
        self.enter(ticket)

    async def answer(self, ticket: TicketId) -> Lease:
        return Lease(
            lease_id=1,
            model="a",
            replica=1,
            upstream=Upstream("", Pool("127.0.0.1", 1), ""),
            granted_at=self.now,
            release=lambda lease, finished: None,
        )

    def leave(self, ticket: TicketId) -> None: ...

    def place(self, ticket: TicketId) -> LinePlace | None: ...


async def test_all_pieces_together_wait_no_longer_than_one_request() -> None:
    desk = Desk()
    turn = Turn(desk, count(1), "a", Priority.LOW, width=1, arrived=0.0, deadline=100.0)
    for waited, served in [(10, 1000), (0, 5), (60, 7)]:
        desk.now += waited
        await turn.lease()
        desk.now += served
        turn.renew()
    last = desk.tickets[-1]
    assert last.deadline - desk.now == 100 - 10 - 60
    assert [ticket.arrived for ticket in desk.tickets] == [0, 1010, 1015, 1082]
    assert [ticket.again for ticket in desk.tickets] == [False, True, True, True]
    assert [ticket.waited for ticket in desk.tickets] == [0, 10, 10, 70]


@pytest.mark.parametrize("granted", [False, True])
async def test_a_piece_that_is_not_wanted_any_more_gives_its_slot_back(granted: bool, bench: Any) -> None:
    async with bench() as b:
        turn = b.engine.turn("a", Priority.NORMAL)
        with await turn.lease() as lease:
            turn.renew()
            if not granted:
                turn.leave()
                assert b.engine.view("a").queue_depth == 0
            lease.finish()
        assert b.engine.view("a").busy == int(granted)
        turn.leave()
        assert b.engine.view("a").busy == 0
        turn.leave()
