"""The engine where memory is short, slow to come, or slow to go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.core.types import DeviceKind, DeviceReading, Exhaustion, Policy, Priority, Status
from router.engine.ports import LoadProgress
from router.errors import RouterError
from tests.fakes.launcher import GIB, FakeDevices, FakeLauncher

GPU = Exhaustion(DeviceKind.GPU)


def asked(rig: Any, model: str) -> asyncio.Task[Any]:
    return asyncio.create_task(rig.engine.lease(model, Priority.NORMAL))


async def serve(waiting: asyncio.Task[Any]) -> None:
    with await waiting as lease:
        lease.finish()


async def test_a_load_that_runs_out_of_memory_is_tried_once_more(bench: Any) -> None:
    launcher = FakeLauncher(ready_at_once=False)
    async with bench(launcher=launcher, monitor=FakeDevices(24)) as rig:
        waiting = asked(rig, "a")
        await rig.until(lambda: len(launcher.children) == 1)
        launcher.children[0].die("cudaMalloc failed", 1, exhausted=GPU)
        await rig.until(lambda: len(launcher.children) == 2)
        launcher.children[1].become_ready()
        await serve(waiting)


async def test_a_look_that_goes_wrong_is_not_the_last(bench: Any) -> None:
    class Shaky(FakeDevices):
        async def read(self) -> tuple[DeviceReading, ...]:
            found = await super().read()
            if self.looks == 2:
                raise RuntimeError("a bug")
            return found

    devices = Shaky(24)
    async with bench(monitor=devices, observe_interval=0.01) as rig:
        await rig.until(lambda: devices.looks > 3)


async def test_the_second_time_its_waiters_are_told(bench: Any) -> None:
    launcher = FakeLauncher(ready_at_once=False)
    async with bench(launcher=launcher, monitor=FakeDevices(24)) as rig:
        waiting = asked(rig, "a")
        for count in (1, 2):
            await rig.until(lambda count=count: len(launcher.children) == count)
            launcher.children[-1].die("cudaMalloc failed", 1, exhausted=GPU)
        with pytest.raises(RouterError, match="cudaMalloc failed"):
            await waiting
        assert rig.seen.loads == [("a", False)]


async def test_the_next_load_on_a_gpu_begins_when_the_child_says_that_it_has_its_memory(bench: Any) -> None:
    launcher = FakeLauncher(ready_at_once=False)
    async with bench("a", "b", launcher=launcher, monitor=FakeDevices(24)) as rig:
        waiting = [asked(rig, "a"), asked(rig, "b")]
        await rig.until(lambda: len(launcher.children) == 1)
        launcher.children[0].progress = LoadProgress(allocated=True)
        await rig.until(lambda: len(launcher.children) == 2)
        assert rig.engine.view("a").status is Status.LOADING
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("gpus", [2, 8])
async def test_loads_on_different_gpus_go_side_by_side(bench: Any, gpus: int) -> None:
    launcher = FakeLauncher(ready_at_once=False)
    names = [f"m{index}" for index in range(gpus)]
    async with bench(*names, launcher=launcher, monitor=FakeDevices(*[24] * gpus), sizes=dict.fromkeys(names, 20),
                     policy=Policy(max_models=gpus)) as rig:  # fmt: skip
        waiting = [asked(rig, name) for name in names]
        await rig.until(lambda: len(launcher.children) == gpus)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_was_cut_is_told_while_it_is_in_memory(bench: Any) -> None:
    launcher = FakeLauncher(ready_at_once=False)
    async with bench(launcher=launcher, monitor=FakeDevices(24)) as rig:
        waiting = asked(rig, "a")
        await rig.until(lambda: len(launcher.children) == 1)
        launcher.children[0].progress = LoadProgress(cut="half of it")
        launcher.children[0].become_ready()
        await serve(waiting)
        assert rig.engine.view("a").cut == "half of it"
        await rig.engine.eject("a", force=False)
        assert rig.engine.view("a").cut == ""


async def test_a_gpu_is_given_away_when_it_shows_the_memory_as_free(bench: Any) -> None:
    launcher, devices = FakeLauncher(), FakeDevices(24)
    sizes = {"a": 20, "b": 20}
    async with bench("a", "b", launcher=launcher, monitor=devices, sizes=sizes, reclaim_timeout=60.0,
                     observe_interval=0.01) as rig:  # fmt: skip
        await serve(asked(rig, "a"))
        dead = launcher.children[0]
        devices.held[dead.pid] = {"gpu:0": 20 * GIB}
        await rig.until(lambda: rig.engine.view("a").seen.get("gpu:0") == 20 * GIB)
        waiting = asked(rig, "b")
        await rig.until(lambda: bool(dead.stops))
        for _ in range(3):  # looks at the device, and waits
            held = devices.looks
            await rig.until(lambda held=held: devices.looks > held)
            assert launcher.models == ["a"]
        del devices.held[dead.pid]
        await serve(waiting)
        assert launcher.models == ["a", "b"]


async def test_what_a_stranger_takes_during_a_load_is_not_learned_without_end(bench: Any) -> None:
    launcher, devices = FakeLauncher(ready_at_once=False), FakeDevices(80)
    async with bench(launcher=launcher, monitor=devices, sizes={"a": 10}) as rig:
        waiting = asked(rig, "a")
        await rig.until(lambda: launcher.children != [])
        await rig.until(lambda: rig.engine.view("a").loading_since is not None)
        devices.held[1] = {"gpu:0": 60 * GIB}
        launcher.children[0].become_ready()
        await serve(waiting)
        assert rig.engine.view("a").seen["gpu:0"] == 20 * GIB


async def test_a_stranger_on_the_gpu_is_left_its_memory(bench: Any) -> None:
    launcher, devices = FakeLauncher(), FakeDevices(24, 24)
    devices.held[1] = {"gpu:0": 10 * GIB}
    async with bench(launcher=launcher, monitor=devices, sizes={"a": 20}) as rig:
        await serve(asked(rig, "a"))
        assert "gpu:0" not in rig.engine.view("a").booked
