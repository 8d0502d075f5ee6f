"""An engine whose configuration changes, and whose end must not wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.core.types import Policy, Priority, Status
from router.engine.limits import Limits
from router.errors import ModelBackingOff, ModelEjected, ModelNotFound, QueueTimeout, ShuttingDown
from tests.fakes.launcher import GIB, FakeDevices, FakeLauncher
from tests.support.drive import cpu_model
from tests.support.waiting import turn, until

QUIET = Limits(health_interval=3600.0)


async def test_models_come_and_go_while_others_serve(bench: Any) -> None:
    async with bench("a", "b") as b:
        lease = await b.engine.lease("a", Priority.NORMAL)
        waiting = asyncio.create_task(b.engine.lease("a", Priority.NORMAL))
        await b.until(lambda: b.engine.view("a").queue_depth == 1)
        b.engine.configure(models=[cpu_model("b"), cpu_model("c")], policy=Policy(), limits=QUIET)
        assert b.engine.names == ("b", "c")
        assert [view.name for view in b.engine.views()] == ["b", "c", "a"], "for as long as it holds memory"
        with pytest.raises(ModelNotFound, match="'a' has been removed"):
            await waiting
        with pytest.raises(ModelNotFound):
            await b.engine.lease("a", Priority.NORMAL)
        with lease:
            lease.finish()
        await b.until(lambda: [view.name for view in b.engine.views()] == ["b", "c"])
        with await b.engine.lease("c", Priority.NORMAL) as other:
            other.finish()


async def test_whoever_still_looks_at_a_model_that_left_gets_an_answer(bench: Any) -> None:
    async with bench("a", launcher=FakeLauncher(ready_at_once=False)) as b:
        b.engine.load("a")
        waiting = asyncio.create_task(b.engine.wait_ready("a", timeout=5))
        ejecting = asyncio.create_task(b.engine.eject("a", force=False))
        await b.until(lambda: b.launcher.children != [])
        b.engine.configure(models=[], policy=Policy(), limits=QUIET)
        with pytest.raises(ModelEjected):
            await waiting
        await ejecting
        assert b.engine.view("a").status is Status.OFF
        assert await b.engine.wait_gone("a", 1, timeout=1)
        assert b.engine.upstream("a") is None


async def test_deadlines_hold_for_what_runs(bench: Any) -> None:
    async with bench("a") as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            b.engine.configure(models=[cpu_model("a")], policy=Policy(), limits=Limits(queue_timeout=0.01))
            with pytest.raises(QueueTimeout):
                await b.engine.lease("a", Priority.NORMAL)
            (supervisor,) = b.engine._children.supervisors.values()
            assert supervisor.watch is not None
            assert supervisor.watch.limits.queue_timeout == 0.01
            lease.finish()


async def test_what_a_stale_replica_remembers_is_not_kept(bench: Any) -> None:
    async with bench("a", launcher=FakeLauncher(kept=2)) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            lease.finish()
        b.engine.configure(models=[cpu_model("a")], policy=Policy(), limits=QUIET, changed=["a"])
        await b.until(lambda: len(b.launcher.children) == 2)
        assert b.launcher.children[0].saves == 0


async def test_a_child_that_is_being_ended_gets_less_time_when_there_is_a_hurry(bench: Any) -> None:
    async with bench("a") as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            lease.finish()
        (child,) = b.launcher.children
        child.hold_stop = asyncio.Event()
        try:
            b.engine.begin_close()
            await until(lambda: child.stops == [5.0])
            b.engine.hurry()
            await until(lambda: child.stops == [5.0, 0.0])
        finally:
            child.hold_stop.set()


async def test_a_hurry_tells_those_who_run(bench: Any) -> None:
    async with bench("a") as b:
        running = await b.endless_request()
        b.engine.hurry()
        with pytest.raises(ShuttingDown):
            await running


async def test_the_end_leaves_children_little_time(bench: Any) -> None:
    async with bench("a") as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            lease.finish()
    (child,) = b.launcher.children
    assert max(child.stops) < 0.5


async def test_the_end_waits_for_no_memory(bench: Any) -> None:
    devices = FakeDevices(16)
    async with asyncio.timeout(10), bench("a", monitor=devices, reclaim_timeout=3600.0) as b:
        with await b.engine.lease("a", Priority.NORMAL) as lease:
            lease.finish()
        (child,) = b.launcher.children
        devices.held[child.pid] = {"gpu:0": GIB}  # and a driver that never gives it back
        await b.engine._children.look()


async def test_the_load_deadline_holds_for_a_load_under_way(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False), load_timeout=3600.0) as b:
        b.engine.load("a")
        await b.until(lambda: b.launcher.children != [])
        b.engine.configure(models=[cpu_model("a")], policy=Policy(), limits=replace(QUIET, load_timeout=0.01))
        await b.until(lambda: b.engine.view("a").status is Status.FAILED)
        assert b.engine.view("a").reason == "failed to load: was not ready within 0.01 s (load_timeout_sec)"
        assert b.engine.troubles() == ()


async def test_a_load_that_is_given_more_time_takes_it(bench: Any) -> None:
    async with bench(launcher=FakeLauncher(ready_at_once=False), load_timeout=0.2) as b:
        b.engine.load("a")
        await b.until(lambda: b.launcher.children != [])
        b.engine.configure(models=[cpu_model("a")], policy=Policy(), limits=QUIET)
        began = b.engine.clock()
        await b.until(lambda: b.engine.clock() > began + 0.4)
        b.launcher.children[0].become_ready()
        await b.engine.wait_ready("a", timeout=5)
        assert len(b.launcher.children) == 1


async def test_the_load_deadline_holds_for_a_launch_that_hangs(bench: Any) -> None:
    async with asyncio.timeout(5), bench(launcher=FakeLauncher(hangs=True), load_timeout=0.01) as b:
        with pytest.raises(ModelBackingOff, match=r"was not started within 0\.01 s \(load_timeout_sec\)"):
            await b.engine.lease("a", Priority.NORMAL)
        assert b.engine.view("a").status is Status.FAILED
        assert b.engine.troubles() == ()


@pytest.mark.parametrize("how", ["ejected", "removed", "ended"])
async def test_a_launch_that_hangs_can_be_given_up(bench: Any, how: str) -> None:
    async with asyncio.timeout(5), bench(launcher=FakeLauncher(hangs=True)) as b:
        b.engine.load("a")
        await turn()
        if how == "ejected":
            await b.engine.eject("a", force=False)
        elif how == "removed":
            b.engine.configure(models=[], policy=Policy(), limits=QUIET)
            await b.until(lambda: b.engine.views() == ())
        else:
            await b.engine.close()
        assert b.engine.view("a").status is Status.OFF
        assert [device.booked for device in b.engine.devices()] == [0]


async def test_a_child_that_was_given_up_gets_less_time_when_there_is_a_hurry(bench: Any) -> None:
    async with bench(health_interval=0.02) as b:
        b.engine.load("a")
        await b.engine.wait_ready("a", timeout=5)
        (child,) = b.launcher.children
        child.hold_stop, child.is_healthy = asyncio.Event(), False
        await b.until(lambda: child.stops == [5.0])
        b.engine.hurry()
        await b.until(lambda: child.stops == [5.0, 0.0])
        child.hold_stop.set()
