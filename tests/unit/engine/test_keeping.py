"""When conversations are saved and restored, what is read ahead, and where a load's time went."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from router.core.types import HOST, Device, DeviceId, DeviceKind, DeviceView, ModelSpec, Need, Policy, Priority, Status
from router.engine.read_ahead import spare_ram
from tests.fakes.launcher import GIB, FakeChild, FakeDevices, FakeLauncher
from tests.unit.engine.conftest import Bench

ONE = Policy(max_models=1)


async def use(bench: Bench, model: str) -> FakeChild:
    with await bench.engine.lease(model, Priority.NORMAL) as lease:
        lease.finish()
    return bench.launcher.children[-1]


async def test_an_eviction_saves_and_the_next_load_restores(bench: Any) -> None:
    async with bench("a", "b", launcher=FakeLauncher(kept=2), policy=ONE) as b:
        first = await use(b, "a")
        await use(b, "b")
        assert first.saves == 1
        assert b.seen.kept == [("a", "restored", 2), ("a", "saved", 2), ("b", "restored", 2)]


class Filling(FakeDevices):
    """RAM of which each child takes so many bytes."""

    taken = GIB // 2

    async def usage(self, pid: int) -> Mapping[DeviceId, int]:
        return {HOST: self.taken}

    async def high_water(self, pid: int) -> Mapping[DeviceId, int]:
        return {HOST: self.taken}


async def test_what_is_restored_is_no_part_of_what_the_model_takes_at_least(bench: Any) -> None:
    launcher, devices = FakeLauncher(ready_at_once=False), Filling()
    model = ModelSpec("a", 1, Need(0, GIB, GIB, source="formula", base=GIB // 4))
    async with bench(models=[model], launcher=launcher, monitor=devices, observe_interval=0.01) as b:
        using = asyncio.create_task(use(b, "a"))
        await b.until(lambda: len(launcher.children) == 1)
        (child,) = launcher.children
        child.hold_restore = asyncio.Event()
        child.become_ready()
        await b.until(lambda: child.restores == 1)
        devices.taken, looks = 2 * GIB, devices.looks
        await b.until(lambda: devices.looks > looks + 3)
        child.hold_restore.set()
        await using
        await b.until(lambda: b.engine.view("a").estimate.host == 2 * GIB)
        assert b.engine.view("a").estimate.base == GIB // 2


async def test_the_child_is_stopped_once_they_are_saved(bench: Any) -> None:
    async with bench("a", "b", policy=ONE) as b:
        first = await use(b, "a")
        first.hold_save = asyncio.Event()
        loading = asyncio.create_task(use(b, "b"))
        await b.until(lambda: first.saves == 1)
        assert first.stops == []
        first.hold_save.set()
        await loading
        assert set(first.stops) == {5.0}


async def test_a_child_that_dies_while_it_saves_holds_nobody_up(bench: Any) -> None:
    async with bench("a", "b", policy=ONE) as b:
        first = await use(b, "a")
        first.hold_save = asyncio.Event()
        loading = asyncio.create_task(use(b, "b"))
        await b.until(lambda: first.saves == 1)
        first.die()
        await loading


async def test_idling_and_ejecting_save_too(bench: Any) -> None:
    async with bench() as b:
        first = await use(b, "a")
        await b.engine.eject("a", force=False)
        assert first.saves == 1


async def test_force_saves_nothing(bench: Any) -> None:
    async with bench() as b:
        first = await use(b, "a")
        await b.engine.eject("a", force=True)
        assert first.saves == 0


async def test_the_end_of_the_router_saves_nothing(bench: Any) -> None:
    async with bench() as b:
        first = await use(b, "a")
        b.engine.begin_close()
        await b.until(lambda: first.stops != [])
        assert first.saves == 0


async def test_the_end_of_the_router_waits_for_no_save(bench: Any) -> None:
    async with bench("a", "b", launcher=FakeLauncher(kept=1), policy=ONE) as b:
        first = await use(b, "a")
        first.hold_save = asyncio.Event()
        loading = asyncio.create_task(use(b, "b"))
        await b.until(lambda: first.saves == 1)
        async with asyncio.timeout(3):
            await b.engine.close()
        await asyncio.gather(loading, return_exceptions=True)
        assert ("a", "saved", 1) not in b.seen.kept


async def test_a_disk_that_hangs_holds_up_neither_a_load_nor_an_unload(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = FakeLauncher(kept=1, hold_restore=asyncio.Event())
    async with asyncio.timeout(5), bench("a", "b", launcher=launcher, policy=ONE, keep_timeout=0.01) as b:
        first = await use(b, "a")
        first.hold_save = asyncio.Event()
        await use(b, "b")
        assert first.saves == 1
        assert b.seen.kept == []
    assert caplog.text.count("the disk that they are on hangs") == 3


async def test_the_next_model_is_read_while_a_victim_ends(bench: Any) -> None:
    async with bench("a", "b", policy=ONE) as b:
        first = await use(b, "a")
        first.hold_stop = asyncio.Event()
        loading = asyncio.create_task(use(b, "b"))
        await b.until(lambda: b.launcher.ahead == ["b"])
        assert b.launcher.room > 0
        first.hold_stop.set()
        await loading
        assert b.launcher.ahead == []


async def test_nothing_is_read_for_a_waiter_that_has_gone(bench: Any) -> None:
    async with bench("a", "b", policy=ONE) as b:
        first = await use(b, "a")
        first.hold_stop = asyncio.Event()
        loading = asyncio.create_task(use(b, "b"))
        await b.until(lambda: b.launcher.ahead == ["b"])
        loading.cancel()
        await b.until(lambda: b.launcher.ahead == [])
        assert b.engine.view("b").status is Status.OFF
        first.hold_stop.set()


async def test_reading_ahead_ends_with_the_engine(bench: Any) -> None:
    async with bench("a", "b", policy=ONE) as b:
        first = await use(b, "a")
        first.hold_stop = asyncio.Event()
        loading = asyncio.create_task(use(b, "b"))
        await b.until(lambda: b.launcher.ahead == ["b"])
        first.hold_stop.set()
    await asyncio.gather(loading, return_exceptions=True)
    assert b.launcher.ahead == []


async def test_every_load_tells_where_its_time_went(bench: Any) -> None:
    async with bench() as b:
        await use(b, "a")
        assert b.seen.phases == [("a", {"spawn", "read", "ready"})]


def host(*, free: float, booked: float = 0, seen: float = 0, total: float = 16) -> DeviceView:
    ram = FakeDevices().devices[0]
    figures = {"total": total, "used": total - free, "free": free, "booked": booked, "seen": seen, "available": 0}
    in_bytes: Mapping[str, Any] = {name: round(value * GIB) for name, value in figures.items()}
    return DeviceView(device=ram, **in_bytes)


def test_spare_ram_is_what_nobody_has_or_is_about_to_take() -> None:
    assert spare_ram([host(free=8)]) == round(8 * GIB - 0.05 * 16 * GIB)
    assert spare_ram([host(free=8, booked=5, seen=2)]) == round(5 * GIB - 0.05 * 16 * GIB)
    assert spare_ram([host(free=1, total=4)]) == GIB // 2
    assert spare_ram([host(free=0)]) < 0


def test_a_machine_that_tells_nothing_of_its_ram_has_none_to_spare() -> None:
    gpu = Device("gpu:0", DeviceKind.GPU, 0, "GPU", GIB, GIB)
    assert spare_ram([DeviceView(gpu, GIB, 0, GIB, 0, 0, GIB)]) == 0
    assert HOST not in gpu.id
