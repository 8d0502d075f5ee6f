"""The memories of this machine as the engine sees them: host RAM always, NVIDIA GPUs where there are any.

Nothing here raises into the engine. What cannot be read, or does not answer in time, keeps its last value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from router.core.types import HOST, Device, DeviceId, DeviceReading
from router.devices.host import HostMemory, peak_rss, process_tree
from router.devices.nvml import Gpus, Nvml
from router.worker import Worker

OPEN_DEADLINE_SEC = 10.0  # NVML wakes sleeping GPUs when it is initialised
READ_DEADLINE_SEC = 2.0


class SystemDevices:
    """Implements `engine.ports.DeviceMonitor`. Made by `open`; the set of devices is fixed from then on."""

    def __init__(self, *, host: HostMemory, gpus: Gpus, budget: int | None, nvml: Worker, deadline: float) -> None:
        self._host = host
        self._gpus = gpus
        self._nvml = nvml
        self._ram = Worker("host-memory")
        self._deadline = deadline
        self._silent = ""
        # `memory_budget_mb` caps what models may take where they run: on the GPUs, or in RAM if there are none.
        device = host.device(None if gpus.devices else budget)
        self._devices = (*gpus.devices, device)
        self._last_host = host.read()

    @classmethod
    async def open(
        cls,
        gpu_indices: Sequence[int],
        memory_budget: int | None = None,
        *,
        host: HostMemory | None = None,
        nvml: Nvml = None,
        open_deadline: float = OPEN_DEADLINE_SEC,
        read_deadline: float = READ_DEADLINE_SEC,
    ) -> Self:
        """Find the devices.

        Args:
            gpu_indices: NVML indices that may be used (`system.gpu_devices`).
            memory_budget: bytes (`system.memory_budget_mb`); per GPU where there are GPUs, else of RAM.
            host, nvml: stand for this machine's RAM and for pynvml.
            open_deadline, read_deadline: seconds that NVML may take to be initialised, and to answer.
        """
        worker = Worker("nvml")
        try:
            gpus = await worker.run(lambda: Gpus.open(gpu_indices, memory_budget, nvml), open_deadline)
        except TimeoutError:
            gpus = Gpus(reason=f"the NVIDIA driver (NVML) did not answer within {open_deadline:g} s")
        except asyncio.CancelledError:
            worker.stop()
            raise
        except Exception as error:  # noqa: BLE001  a broken driver must not keep the router from starting
            gpus = Gpus(reason=f"NVML failed: {error!r}")
        return cls(host=host or HostMemory(), gpus=gpus, budget=memory_budget, nvml=worker, deadline=read_deadline)

    async def close(self) -> None:
        """Let go of NVML; does not wait longer than a read may take."""
        try:
            await self._nvml.run(self._gpus.close, self._deadline)
        except Exception:  # noqa: BLE001  it hangs, breaks or was closed before; its thread ends with the process
            return
        finally:
            self._nvml.stop()
            self._ram.stop()

    @property
    def devices(self) -> tuple[Device, ...]:
        return self._devices

    @property
    def gpu_reason(self) -> str:
        """Why there is no GPU, in a sentence; empty when there is one."""
        return self._gpus.reason

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know about the GPUs that were asked for."""
        return self._gpus.notes

    @property
    def quarantined(self) -> Mapping[DeviceId, str]:
        """Devices whose last reading failed and why: what is said about them is old."""
        if self._silent:
            return {device.id: self._silent for device in self._gpus.devices}
        return self._gpus.quarantined

    async def read(self) -> tuple[DeviceReading, ...]:
        gpus = await self._read_gpus()
        faults = self.quarantined
        return (*(replace(gpu, fault=faults.get(gpu.id, "")) for gpu in gpus), await self._read_host())

    async def usage(self, pid: int) -> Mapping[DeviceId, int]:
        try:
            tree = await self._ram.run(lambda: process_tree(pid), self._deadline)
        except Exception:  # noqa: BLE001  a port that never raises
            return {}
        if tree is None:
            return {}
        try:
            on_gpus = await self._nvml.run(lambda: self._gpus.usage(tree.pids), self._deadline)
        except Exception:  # noqa: BLE001  a port that never raises
            on_gpus = {}
        return {**on_gpus, HOST: tree.rss}

    async def high_water(self, pid: int) -> Mapping[DeviceId, int]:
        try:
            peak = await self._ram.run(lambda: peak_rss(pid), self._deadline)
        except Exception:  # noqa: BLE001  a port that never raises
            return {}
        return {} if peak is None else {HOST: peak}

    async def _read_gpus(self) -> tuple[DeviceReading, ...]:
        try:
            readings = await self._nvml.run(self._gpus.read, self._deadline)
        except TimeoutError:
            self._silent = f"NVML does not answer within {self._deadline:g} s"
        except Exception as error:  # noqa: BLE001  a port that never raises
            self._silent = f"NVML failed: {error!r}"
        else:
            self._silent = ""
            return readings
        return self._gpus.last

    async def _read_host(self) -> DeviceReading:
        try:
            self._last_host = await self._ram.run(self._host.read, self._deadline)
        except Exception:  # noqa: BLE001  a port that never raises; the last value stands
            return self._last_host
        return self._last_host
