"""What every DeviceMonitor promises the engine, whatever the machine does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pynvml
import pytest

from router.core.types import HOST, DeviceReading
from router.devices.host import HostMemory
from router.devices.monitor import SystemDevices
from router.engine.ports import DeviceMonitor
from tests.fakes.nvml import MIB, FakeGpu, FakeNvml


@pytest.fixture
def nvml() -> Iterator[FakeNvml]:
    fake = FakeNvml([FakeGpu(used=100 * MIB, processes={os.getpid(): 40 * MIB}), FakeGpu()])
    yield fake
    fake.answering.set()


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(timeout=20)
    return process.pid


async def _system(nvml: FakeNvml, budget: int | None = None, *, host: HostMemory | None = None) -> SystemDevices:
    return await SystemDevices.open([0, 1], budget, host=host, nvml=nvml, open_deadline=5, read_deadline=0.2)


@pytest.fixture(params=["no driver", "two GPUs", "this machine"])
async def monitor(request: pytest.FixtureRequest, nvml: FakeNvml) -> AsyncIterator[DeviceMonitor]:
    if request.param == "no driver":
        nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    opened = await (SystemDevices.open([0]) if request.param == "this machine" else _system(nvml))
    yield opened
    await opened.close()


async def test_the_host_is_always_a_device_and_the_last(monitor: DeviceMonitor) -> None:
    assert monitor.devices[-1].id == HOST
    assert len({device.id for device in monitor.devices}) == len(monitor.devices)


async def test_capacities_are_within_the_device(monitor: DeviceMonitor) -> None:
    assert all(0 < device.capacity <= device.total for device in monitor.devices)


async def test_every_device_is_read(monitor: DeviceMonitor) -> None:
    readings = await monitor.read()
    assert [reading.id for reading in readings] == [device.id for device in monitor.devices]
    for reading in readings:
        assert reading.used >= 0
        assert reading.free >= 0
        assert reading.used + reading.free <= reading.total


async def test_usage_of_a_process(monitor: DeviceMonitor) -> None:
    usage = await monitor.usage(os.getpid())
    assert usage[HOST] > MIB
    assert set(usage) <= {device.id for device in monitor.devices}


async def test_usage_of_a_process_that_is_gone(monitor: DeviceMonitor, gone: int) -> None:
    assert await monitor.usage(gone) == {HOST: 0}


async def test_usage_is_told_per_device(nvml: FakeNvml) -> None:
    system = await _system(nvml)
    usage = await system.usage(os.getpid())
    assert {device: size for device, size in usage.items() if device != HOST} == {"gpu:0": 40 * MIB, "gpu:1": 0}
    await system.close()


async def test_a_budget_caps_the_gpus_and_leaves_the_host_alone(nvml: FakeNvml) -> None:
    plain, capped = await _system(nvml), await _system(nvml, 2_000 * MIB)
    assert [device.capacity for device in capped.devices[:2]] == [2_000 * MIB] * 2
    assert capped.devices[-1].capacity == plain.devices[-1].capacity
    await plain.close()
    await capped.close()


async def test_without_gpus_a_budget_caps_the_host(nvml: FakeNvml) -> None:
    nvml.init_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    system = await _system(nvml, 64 * MIB)
    assert [(device.id, device.capacity) for device in system.devices] == [(HOST, 64 * MIB)]
    assert "no NVIDIA driver answers" in system.gpu_reason
    await system.close()


def _figures(readings: Sequence[DeviceReading]) -> list[tuple[int, int, int]]:
    """Of the GPUs."""
    return [(reading.total, reading.used, reading.free) for reading in readings[:2]]


async def test_a_lost_gpu_keeps_its_last_value_in_quarantine(nvml: FakeNvml) -> None:
    system = await _system(nvml)
    before = await system.read()
    nvml.gpus[0].error, nvml.gpus[0].used = pynvml.NVML_ERROR_GPU_IS_LOST, 0
    after = await system.read()
    assert _figures(after) == _figures(before)
    assert set(system.quarantined) == {"gpu:0"}
    assert ["lost" in reading.fault for reading in after[:2]] == [True, False]
    assert set(await system.usage(os.getpid())) == {HOST}
    await system.close()


async def test_nvml_that_hangs_keeps_the_last_values_until_it_answers_again(nvml: FakeNvml) -> None:
    system = await _system(nvml)
    before = await system.read()
    nvml.answering.clear()
    for _ in range(3):
        readings = await system.read()
        assert _figures(readings) == _figures(before)
        assert [reading.fault for reading in readings] == [*["NVML does not answer within 0.2 s"] * 2, ""]
    assert system.quarantined == dict.fromkeys(("gpu:0", "gpu:1"), "NVML does not answer within 0.2 s")
    assert (await system.usage(os.getpid()))[HOST] > MIB
    nvml.gpus[0].used = 200 * MIB
    nvml.answering.set()
    readings = await system.read()
    while system.quarantined:  # the hung call may still be on its way out
        readings = await system.read()
    assert (readings[0].used, readings[0].fault) == (200 * MIB, "")
    await system.close()


async def test_nvml_that_hangs_at_the_start_means_no_gpus(nvml: FakeNvml) -> None:
    nvml.answering.clear()
    system = await SystemDevices.open([0], nvml=nvml, open_deadline=0.05, read_deadline=0.05)
    assert [device.id for device in system.devices] == [HOST]
    assert system.gpu_reason == "the NVIDIA driver (NVML) did not answer within 0.05 s"
    assert [reading.id for reading in await system.read()] == [HOST]
    await system.close()


async def test_an_nvml_that_breaks_in_its_own_way_does_not_reach_the_engine(nvml: FakeNvml) -> None:
    system = await _system(nvml)
    before = await system.read()
    nvml.gpus[0].used = None  # type: ignore[assignment]
    assert _figures(await system.read()) == _figures(before)
    assert "NVML failed: TypeError" in system.quarantined["gpu:0"]
    await system.close()


async def test_a_host_that_cannot_be_read_keeps_its_last_value(nvml: FakeNvml, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\nActive(file): 0 kB\nInactive(file): 0 kB\nMapped: 0 kB\n"
        "Shmem: 0 kB\nMlocked: 0 kB\n"
    )
    system = await _system(nvml, host=HostMemory(proc=tmp_path, cgroup=tmp_path))
    before = await system.read()
    (tmp_path / "meminfo").write_bytes(b"\xff\xfe\n")
    assert (await system.read())[-1] == before[-1]
    await system.close()


async def test_after_close_nothing_raises_and_nvml_is_shut_down(nvml: FakeNvml) -> None:
    system = await _system(nvml)
    await system.close()
    assert nvml.opened == 0
    assert [reading.id for reading in await system.read()] == ["gpu:0", "gpu:1", HOST]
    assert await system.usage(os.getpid()) == {}


async def test_the_high_water_mark_outlives_what_made_it(monitor: DeviceMonitor) -> None:
    block = b"x" * (64 * MIB)
    held = (await monitor.usage(os.getpid()))[HOST]
    assert len(block) == 64 * MIB
    del block
    marks = await monitor.high_water(os.getpid())
    assert marks.get(HOST, held) >= held - MIB  # the kernel counts some pages late
    assert set(marks) <= {HOST}


async def test_the_high_water_mark_of_a_process_that_is_gone(monitor: DeviceMonitor, gone: int) -> None:
    assert await monitor.high_water(gone) == {}
