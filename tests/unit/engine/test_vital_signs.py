"""Children that stand still: stopped processes, silent servers, slots that hang. And those that are only slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.core.types import Policy, Priority, Status
from router.engine.ports import SlotReading
from router.errors import GenerationTimeout, UpstreamStalled
from tests.fakes.launcher import FakeDevices, FakeLauncher

pytestmark = pytest.mark.anyio

AT_ONCE = Policy(restart_grace=0.0)
READING = (SlotReading(0, busy=True, task=1, progress=0, reading=True),)
DECODING = (SlotReading(0, busy=True, task=1, progress=1),)


async def test_a_stopped_child_is_killed_without_grace_and_replaced(bench: Any) -> None:
    async with bench(policy=AT_ONCE, process_interval=0.01) as b:
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)
        first = b.launcher.children[0]
        first.halt = "was stopped by a signal"
        await b.until(lambda: b.engine.view("a").replica == 2 and b.engine.view("a").status is Status.READY)
        assert first.stops == [0.0]
        assert b.seen.restarts == ["a"]


async def test_a_child_that_is_stopped_while_it_loads_is_a_failed_load(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False), process_interval=0.01) as b:
        b.engine.load("a")
        await b.until(lambda: b.launcher.children != [])
        b.launcher.children[0].halt = "was stopped by a signal"
        await b.until(lambda: b.engine.view("a").status is Status.FAILED)
        assert b.engine.view("a").reason == "failed to load: its process was stopped by a signal"


async def test_one_look_at_a_stopped_child_is_not_enough(bench: Any) -> None:
    async with bench(process_interval=0.01) as b:
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)
        child = b.launcher.children[0]
        child.halts = ["was stopped by a signal", ""] * 5
        await b.until(lambda: not child.halts)
        assert child.stops == []


async def test_what_was_queued_on_a_stopped_child_goes_to_its_successor(bench: Any) -> None:
    async with bench(policy=AT_ONCE, process_interval=0.01) as b:
        with await b.engine.lease("a", Priority.NORMAL):
            waiting = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
            await b.until(lambda: b.engine.view("a").queue_depth == 1)
            b.launcher.children[0].halt = "was stopped by a signal"
            with await waiting as lease:
                assert lease.replica == 2
                lease.finish()


async def test_a_child_that_sends_is_not_dead_though_it_answers_no_health_check(bench: Any) -> None:
    async with bench(policy=AT_ONCE, health_interval=0.01) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            child = b.launcher.children[0]
            child.is_healthy, child.on_health = False, lease.progress
            await b.until(lambda: child.health_checks > 9)
            assert child.stops == []
            child.on_health = lambda: None
            await b.until(lambda: child.stops != [])
            lease.finish()


async def test_a_child_that_computes_for_a_request_is_not_dead_either(bench: Any) -> None:
    async with bench(policy=AT_ONCE, health_interval=0.01) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            child = b.launcher.children[0]
            child.is_healthy, child.cpu_step = False, 1.0
            await b.until(lambda: child.health_checks > 9)
            assert child.stops == []
            lease.finish()
        await b.until(lambda: child.stops != [])  # for nobody it need not compute


async def hold(b: Any, **changes: Any) -> None:
    """A request that runs until the engine ends it, on a child that is as told."""
    with await b.engine.lease("a", Priority.NORMAL):
        for name, value in changes.items():
            setattr(b.launcher.children[0], name, value)
        await asyncio.Event().wait()


@pytest.mark.parametrize("silent", [False, True], ids=["nothing to see", "no answer"])
async def test_a_long_prompt_on_a_cpu_is_no_stall(bench: Any, silent: bool) -> None:
    async with bench(request_timeout=0.1, generation_timeout=0.6) as b:
        with pytest.raises(GenerationTimeout):
            await hold(b, readings=READING, silent_slots=silent, cpu_step=1.0)


async def test_who_decodes_beside_a_long_prompt_on_a_cpu_is_no_stall(bench: Any) -> None:
    """They share each batch: no token is decoded before its part of the prompt is read."""
    reading = SlotReading(1, busy=True, task=2, progress=0, reading=True)
    async with bench(launcher=FakeLauncher(slots=2), request_timeout=0.1, generation_timeout=0.6) as b:
        ways = [hold(b, readings=(*DECODING, reading), cpu_step=1.0) for _ in range(2)]
        ended = await asyncio.gather(*ways, return_exceptions=True)
        assert [type(error) for error in ended] == [GenerationTimeout, GenerationTimeout]


@pytest.mark.parametrize(
    ("readings", "step"), [(READING, 0.0), (DECODING, 1.0)], ids=["it does not compute", "it decodes nothing"]
)
async def test_a_slot_that_stands_still_is_a_stall(bench: Any, readings: tuple[SlotReading, ...], step: float) -> None:
    async with bench(request_timeout=0.1, generation_timeout=5.0) as b:
        with pytest.raises(UpstreamStalled):
            await hold(b, readings=readings, cpu_step=step)


async def test_who_waits_for_a_hanging_gpu_computes_too(bench: Any) -> None:
    async with bench(monitor=FakeDevices(16), request_timeout=0.1, generation_timeout=5.0) as b:
        with pytest.raises(UpstreamStalled):
            await hold(b, readings=READING, cpu_step=1.0)


async def test_a_slot_that_stalled_and_does_not_let_go_costs_the_replica_soon(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.engine.slot_watch._LET_GO", 0.05)
    async with bench(policy=AT_ONCE, request_timeout=0.8) as b:
        with pytest.raises(UpstreamStalled):
            await hold(b, readings=DECODING)
        async with asyncio.timeout(0.6):  # and not after the whole limit once more
            await b.until(lambda: b.launcher.children[0].stops != [])


async def test_a_slot_that_lets_go_after_a_stall_costs_nothing(bench: Any) -> None:
    async with bench(policy=AT_ONCE, request_timeout=0.1) as b:
        for _ in range(3):
            with pytest.raises(UpstreamStalled):
                await hold(b, readings=DECODING)
            b.launcher.children[0].readings = ()
            await b.until(lambda: b.engine.view("a").busy == 0)
        assert len(b.launcher.children) == 1
