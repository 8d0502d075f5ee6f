"""The engine with real tasks and fake children."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.core.types import Policy, Priority, Status
from router.engine.ports import SlotReading
from router.errors import (
    GenerationTimeout,
    ModelBackingOff,
    ModelEjected,
    ModelFailed,
    ModelTooLarge,
    QueueTimeout,
    ShuttingDown,
    UpstreamStalled,
)
from tests.fakes.launcher import FakeLauncher
from tests.support.drive import cpu_model

pytestmark = pytest.mark.anyio


async def test_twenty_first_requests_start_one_child(bench: Any) -> None:
    async with bench() as b:
        served = 0

        async def request() -> None:
            nonlocal served
            with await b.engine.lease("a", Priority.NORMAL) as lease:
                served += 1
                lease.finish()

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(request())
        assert served == 20
        assert b.launcher.models == ["a"]
        assert b.seen.loads == [("a", True)]


async def test_a_free_slot_is_granted_without_a_suspension(bench: Any) -> None:
    async with bench() as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            lease.finish()
        granting = b.engine.lease("a", Priority.NORMAL)
        with pytest.raises(StopIteration) as done:
            granting.send(None)
        lease = done.value.value
        with lease:
            lease.finish()


async def test_a_waiter_that_leaves_is_not_granted(bench: Any) -> None:
    async with bench() as b:
        first = await b.engine.lease("a", Priority.NORMAL)
        with first:
            second = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
            third = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
            await b.until(lambda: b.engine.view("a").queue_depth == 2)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            first.finish()
        with await third as lease:
            lease.finish()
        assert len(b.seen.grants) == 2


async def test_a_grant_that_meets_a_cancellation_gives_its_slot_back(bench: Any) -> None:
    async with bench() as b:
        first = await b.engine.lease("a", Priority.NORMAL)
        with first:
            waiting = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
            await b.until(lambda: b.engine.view("a").queue_depth == 1)
            first.finish()
        waiting.cancel()  # granted already, but the task has not run since
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert b.engine.view("a").busy == 0


async def test_a_waiter_gives_up_in_time_and_is_told_when_to_come_back(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False)) as b:
        with pytest.raises(QueueTimeout) as refused:
            await b.engine.lease("a", Priority.NORMAL, timeout=0.05)
        assert refused.value.headers()["retry-after"].isdigit()
        assert b.engine.view("a").status is Status.LOADING


async def test_a_failed_load_tells_every_waiter_the_reason(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False)) as b:
        waiting = [asyncio.create_task(b.engine.lease("a", Priority.NORMAL)) for _ in range(3)]
        await b.until(lambda: b.launcher.children != [])
        b.launcher.children[0].die("model is corrupted", 1)
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, ModelFailed)
            assert "model is corrupted" in error.message
            assert error.headers()["x-should-retry"] == "false"
        assert b.engine.view("a").status is Status.FAILED
        assert b.seen.loads == [("a", False)]


async def test_a_child_that_cannot_be_launched_is_a_failed_load(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(refuse="no such file: /x/llama-server")) as b:
        with pytest.raises(ModelFailed, match="/x/llama-server"):
            await b.engine.lease("a", Priority.NORMAL)


async def test_a_load_that_takes_too_long_is_ended(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False), load_timeout=0.05) as b:
        with pytest.raises(ModelBackingOff, match="load_timeout_sec") as refused:
            await b.engine.lease("a", Priority.NORMAL)
        assert refused.value.headers() == {"retry-after": "1"}
        await b.until(lambda: b.launcher.children[0].stops != [])


async def test_a_child_that_dies_later_is_replaced(bench: Any) -> None:
    async with bench(policy=Policy(restart_grace=0.0)) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            lease.finish()
        b.launcher.children[0].die()
        await b.until(lambda: len(b.launcher.children) == 2)
        await b.until(lambda: b.engine.view("a").status is Status.READY)
        assert b.seen.restarts == ["a"]


async def test_a_child_that_stops_answering_is_replaced(bench: Any) -> None:
    async with bench(policy=Policy(restart_grace=0.0), health_interval=0.02) as b:
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)
        b.launcher.children[0].is_healthy = False
        await b.until(lambda: len(b.launcher.children) == 2)
        assert b.launcher.children[0].health_checks >= 3
        assert b.launcher.children[0].stops


async def test_the_least_recently_used_makes_room(bench: Any) -> None:
    models = [replace(cpu_model(name), evict_cost=0.0) for name in "abc"]  # however long each of them took to load
    async with bench(models=models, policy=Policy(max_models=2)) as b:
        for name in "abc":
            with await b.engine.lease(name, Priority.NORMAL) as lease:
                lease.finish()
        assert b.seen.evictions == [("a", "c")]
        assert [view.status for view in b.engine.views()] == [Status.OFF, Status.READY, Status.READY]


async def test_eject_waits_for_what_runs(bench: Any) -> None:
    async with bench() as b:
        lease = await b.engine.lease("a", Priority.NORMAL)
        with lease:
            ejecting = asyncio.create_task(b.engine.eject("a", force=False))
            await b.until(lambda: b.engine.view("a").status is Status.DRAINING)
            assert not b.launcher.children[0].stops
            lease.finish()
        await ejecting
        assert b.engine.view("a").status is Status.OFF


async def test_an_eject_that_is_taken_back_ends(bench: Any) -> None:
    async with bench() as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            ejecting = asyncio.create_task(b.engine.eject("a", force=False))
            await b.until(lambda: b.engine.view("a").status is Status.DRAINING)
            b.engine.load("a")
            async with asyncio.timeout(5):
                await ejecting
            assert b.engine.view("a").status is Status.READY
            lease.finish()


async def test_a_forced_eject_tells_what_it_cut(bench: Any) -> None:
    async with bench() as b:
        running = await b.endless_request()
        await b.engine.eject("a", force=True)
        with pytest.raises(ModelEjected):
            await running


async def test_an_abandoned_slot_stays_busy_until_the_child_shows_it_idle(bench: Any) -> None:
    async with bench() as b:
        with await b.engine.lease("a", Priority.NORMAL):
            b.launcher.children[0].readings = (SlotReading(0, busy=True, task=1, progress=1),)
        following = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
        await b.until(lambda: b.engine.view("a").queue_depth == 1)
        assert b.engine.view("a").busy == 1
        b.launcher.children[0].readings = (SlotReading(0, busy=False, task=1, progress=1),)
        with await following as lease:
            lease.finish()


async def test_a_lease_without_progress_ends_with_an_error(bench: Any) -> None:
    async with bench(request_timeout=0.2) as b:
        with pytest.raises(UpstreamStalled), await b.engine.lease("a", Priority.NORMAL):
            await asyncio.Event().wait()


async def test_slots_that_move_count_as_progress(bench: Any) -> None:
    async with bench(request_timeout=0.2, generation_timeout=1.0) as b:

        async def request() -> None:
            with await b.engine.lease("a", Priority.NORMAL):
                b.launcher.children[0].works = True
                await asyncio.Event().wait()

        with pytest.raises(GenerationTimeout):
            await request()


async def test_a_slot_that_hangs_after_its_client_has_gone_costs_the_replica(bench: Any) -> None:
    async with bench(request_timeout=0.2, policy=Policy(restart_grace=0.0)) as b:
        with await b.engine.lease("a", Priority.NORMAL):
            b.launcher.children[0].readings = (SlotReading(0, busy=True, task=1, progress=1),)
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            assert len(b.launcher.children) == 2
            lease.finish()


async def test_of_two_leases_the_one_whose_slot_stands_still_is_ended(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(slots=2), request_timeout=0.3, generation_timeout=1.5) as b:
        ends: list[str] = []

        async def request(name: str) -> None:
            try:
                with await b.engine.lease("a", Priority.NORMAL):
                    await asyncio.Event().wait()
            except (UpstreamStalled, GenerationTimeout) as error:
                ends.append(f"{name}: {type(error).__name__}")

        async with asyncio.TaskGroup() as group:
            group.create_task(request("stuck"))
            await b.until(lambda: b.engine.view("a").busy == 1)
            group.create_task(request("works"))
            await b.until(lambda: b.engine.view("a").busy == 2)
            b.launcher.children[0].stuck = (SlotReading(1, busy=True, task=7, progress=3),)
            b.launcher.children[0].works = True
        assert ends == ["stuck: UpstreamStalled", "works: GenerationTimeout"]


async def test_nothing_is_granted_on_a_replica_that_has_been_given_up(bench: Any) -> None:
    async with bench(policy=Policy(restart_grace=0.0), health_interval=0.02) as b:
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)
        first = b.launcher.children[0]
        first.hold_stop = asyncio.Event()
        first.is_healthy = False
        await b.until(lambda: first.stops != [])
        waiting = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
        await b.until(lambda: b.engine.view("a").queue_depth == 1)
        first.hold_stop.set()
        with await waiting as lease:
            assert lease.replica != first.replica
            lease.finish()


async def test_waiting_for_a_model_that_is_ejected_meanwhile_ends(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False)) as b:
        b.engine.load("a")
        waiting = asyncio.create_task(b.engine.wait_ready("a", timeout=60))
        await b.until(lambda: b.launcher.children != [])
        await b.engine.eject("a", force=False)
        with pytest.raises(ModelEjected):
            await waiting


async def test_who_waited_in_vain_for_a_load_is_told_how_long_it_will_be(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False)) as b:
        b.engine.load("a")
        with pytest.raises(QueueTimeout) as told:
            await b.engine.wait_ready("a", timeout=0.01)
        assert told.value.retry_after == pytest.approx(b.engine.view("a").expected_wait, abs=0.2)
        assert b.engine.view("a").expected_wait > 0.2


async def test_a_dropped_preload_does_not_make_a_load_too_large(bench: Any) -> None:
    async with bench("a", "b", policy=Policy(max_models=1)) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            b.engine.load("b", evict=False)
            b.engine.load("b")
            assert b.engine.view("b").reason == "waits for room"
            lease.finish()
        await b.engine.wait_ready("b", timeout=5)


async def test_a_cancellation_from_elsewhere_stays_one(bench: Any) -> None:
    async with bench() as b:
        running = await b.endless_request()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_closing_ends_every_child_and_refuses_new_work(bench: Any) -> None:
    async with bench("a", "b") as b:
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)
        lease = await b.engine.lease("b", Priority.NORMAL)
        b.engine.begin_close()
        with pytest.raises(ShuttingDown):
            await b.engine.lease("a", Priority.NORMAL)
        with lease:
            lease.finish()
    assert all(child.stops for child in b.launcher.children)
    assert b.launcher.closed


async def test_loading_a_failed_model_asks_for_a_reset(bench: Any) -> None:
    launcher = FakeLauncher(refuse="broken")
    async with bench(launcher=launcher, policy=Policy(failure_limit=1)) as b:
        with pytest.raises(ModelFailed):
            await b.engine.lease("a", Priority.NORMAL)
        with pytest.raises(ModelFailed, match="reset"):
            b.engine.load("a")
        launcher.refuse = ""
        b.engine.reset("a")
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)


async def test_loading_what_can_never_fit_is_refused_with_the_arithmetic(bench: Any) -> None:
    async with bench(sizes={"a": 64}) as b:
        for _ in range(2):
            with pytest.raises(ModelTooLarge, match=r"65,?536"):
                b.engine.load("a")
        assert b.engine.view("a").status is Status.FAILED
        with pytest.raises(ModelTooLarge):
            await b.engine.wait_ready("a", timeout=5)


async def test_the_last_words_of_a_child_that_failed_are_kept(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False)) as b:
        waiting = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
        await b.until(lambda: b.launcher.children != [])
        b.launcher.children[0].die("broken", 1)
        await asyncio.gather(waiting, return_exceptions=True)
        assert b.engine.tail("a") == "log"
