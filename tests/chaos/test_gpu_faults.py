"""GPUs that get lost, break or fall silent in mid-run: what is loaded stays and serves, nothing is evicted."""

from __future__ import annotations

import os
from typing import Any

import pynvml
import pytest

from router.core.types import Policy, Priority, Status
from router.devices.monitor import SystemDevices
from router.engine.engine import Engine
from router.engine.limits import Limits
from tests.fakes.launcher import GIB, FakeLauncher
from tests.fakes.nvml import FakeGpu, FakeNvml
from tests.support.drive import gpu_model
from tests.support.waiting import until
from tests.unit.engine.conftest import Recorder

CODES = {
    "lost": pynvml.NVML_ERROR_GPU_IS_LOST,
    "reset required": pynvml.NVML_ERROR_RESET_REQUIRED,
    "corrupted": pynvml.NVML_ERROR_CORRUPTED_INFOROM,
    "unknown": pynvml.NVML_ERROR_UNKNOWN,
    "driver gone": pynvml.NVML_ERROR_UNINITIALIZED,
}


class Looks(SystemDevices):
    """Counts how often the devices were read."""

    count = 0

    async def read(self) -> Any:
        found = await super().read()
        self.count += 1
        return found


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
async def test_no_storm_of_evictions(code: int) -> None:
    nvml = FakeNvml([FakeGpu(total=16 * GIB, processes={os.getpid(): 0})])
    monitor = await Looks.open([0], None, nvml=nvml, open_deadline=5, read_deadline=0.2)
    seen, launcher = Recorder(), FakeLauncher()
    engine = Engine(
        models=[gpu_model(name, 5) for name in "ab"], policy=Policy(), limits=Limits(observe_interval=0.01),
        launcher=launcher, monitor=monitor, observer=seen,
    )  # fmt: skip
    await engine.start()
    try:
        for name in "ab":
            with await engine.lease(name, Priority.NORMAL) as lease:
                lease.finish()
        before = [(view.device.id, view.total, view.free, view.booked) for view in engine.devices()][:1]
        nvml.gpus[0].error = code
        looked = monitor.count
        await until(lambda: monitor.count > looked + 5)
        assert set(monitor.quarantined) == {"gpu:0"}
        assert [(view.device.id, view.total, view.free, view.booked) for view in engine.devices()][:1] == before
        for name in "ab":
            with await engine.lease(name, Priority.NORMAL) as lease:
                lease.finish()
            assert engine.view(name).status is Status.READY
        assert seen.evictions == []
        assert launcher.models == ["a", "b"]
        nvml.gpus[0].error = None
        await until(lambda: not monitor.quarantined)
    finally:
        await engine.close()
        await monitor.close()
