"""GPUs that get lost, break or fall silent in mid-run: what is loaded stays and serves, nothing is evicted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from router.core.types import Policy, Priority, Status
from router.devices.monitor import SystemDevices
from router.engine.engine import Engine
from router.engine.limits import Limits
from tests.fakes.fake_binary import make_fake_binary
from tests.fakes.launcher import GIB, FakeLauncher
from tests.fakes.nvml import MIB, FakeGpu, FakeNvml
from tests.support.drive import gpu_model
from tests.support.observing import in_background, metric
from tests.support.router import ROOT, RunningRouter, router
from tests.support.waiting import until, wait_until
from tests.unit.engine.conftest import Recorder

GPU_ROUTER = (str(ROOT / "tests" / "fakes" / "gpu_router.py"),)
LAST = ("total_bytes", "used_bytes", "free_bytes", "capacity_bytes", "booked_bytes")
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


@pytest.fixture(scope="module")
def with_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router and two models, each of which takes a fourth of the GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    models = {}
    for name in "ab":
        file = folder / f"{name}.gguf"
        file.write_bytes(b"GGUF")
        os.truncate(file, 400 * MIB)
        models[name] = {"model_path": str(file)}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(folder))}
    system = {"gpu_devices": [0]}
    with router(folder, models, system=system, env=env, program=GPU_ROUTER) as running:
        yield running
        assert "Traceback" not in running.log


def gpu_of(running: RunningRouter) -> dict[str, Any]:
    found: dict[str, Any] = running.client.get("/vram").json()["devices"][0]
    return found


def test_a_gpu_that_is_lent_and_lost_takes_nothing_along(with_gpu: RunningRouter) -> None:
    """Another process takes most of it, then it falls off the bus, and then all is well again."""
    running = with_gpu
    assert running.chat("a").status_code == 200
    pid = running.status("a")["pid"]

    def waits_for(what: str) -> None:
        wait_until(lambda: what in running.status("b").get("reason", ""), what=f"{what!r} as the reason to wait")
        assert running.chat("a").status_code == 200
        assert running.client.get("/readyz").status_code == 200

    running.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: gpu_of(running)["others_bytes"] > 0, what="the other process")
    with in_background() as pool:
        answer = pool.submit(running.chat, "b")
        waits_for("1,800 MiB of gpu:0 are in use by other processes")
        before = gpu_of(running)
        running.process.send_signal(signal.SIGUSR1)
        waits_for("gpu:0 cannot be read: NVML: GPU is lost")
        assert {key: gpu_of(running)[key] for key in LAST} == {key: before[key] for key in LAST}
        assert not answer.done()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            running.process.send_signal(number)
        assert answer.result().status_code == 200
    assert "fault" not in gpu_of(running)
    assert running.status("a")["pid"] == pid
    assert sum(metric(running, "router_evictions_total", model=name) for name in "ab") == 0
