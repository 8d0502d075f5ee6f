"""NVIDIA GPUs through NVML: total, used and free memory, and what each process holds.

NVML numbers GPUs in the order of the PCI bus, as CUDA does under CUDA_DEVICE_ORDER=PCI_BUS_ID. All calls block and
belong on one thread. MIG is left as it is: a partitioned GPU is shown as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from router.core.types import Device, DeviceId, DeviceKind, DeviceReading

_MIB = 1024**2
MARGIN_SHARE = 0.02
MARGIN_BYTES = 256 * _MIB

# pynvml, which is untyped, or a stand-in with the same functions.
Nvml = Any


@dataclass(slots=True)
class _Gpu:
    device: Device
    handle: Any
    last: DeviceReading


@dataclass(slots=True)
class Gpus:
    """The GPUs that may be used and can be read.

    Attributes:
        reason: why there are none, in a sentence; empty when there are.
        notes: what else an operator should know, e.g. an index that does not exist.
        quarantined: GPUs that could not be read the last time, and why; their last reading stands. One that answers
            again is let out; one that fell off the bus stays until the driver has it back and the router restarts.
    """

    nvml: Nvml = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    quarantined: Mapping[DeviceId, str] = field(default_factory=dict)
    _gpus: list[_Gpu] = field(default_factory=list)

    @classmethod
    def open(cls, indices: Sequence[int], budget: int | None, nvml: Nvml = None) -> Gpus:
        """Find the GPUs with these NVML indices; never raises for what NVML says.

        Args:
            budget: bytes that models may take on each GPU; None = all but a margin.
            nvml: stands for pynvml.
        """
        if not indices:
            return cls(reason="gpu_devices is empty")
        try:
            library = nvml if nvml is not None else _pynvml()
        except ImportError as error:
            return cls(reason=f"nvidia-ml-py is not installed ({error})")
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            return cls(reason=f"no NVIDIA driver answers (NVML: {error})")
        gpus = cls(nvml=library)
        gpus._find(indices, budget)
        return gpus

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(gpu.device for gpu in self._gpus)

    @property
    def last(self) -> tuple[DeviceReading, ...]:
        """The readings last had, without asking."""
        return tuple(gpu.last for gpu in self._gpus)

    def read(self) -> tuple[DeviceReading, ...]:
        """All GPUs now; one that fails keeps its last reading and is quarantined."""
        failed: dict[DeviceId, str] = {}
        for gpu in self._gpus:
            try:
                gpu.last = self._reading(gpu.handle, gpu.device.id)
            except self.nvml.NVMLError as error:
                failed[gpu.device.id] = f"NVML: {error}"
        self.quarantined = failed
        return self.last

    def usage(self, pids: AbstractSet[int]) -> dict[DeviceId, int]:
        """Bytes that these processes hold on each GPU.

        Left out is a GPU that does not tell for one of them. Where none of them is listed on any GPU, all are left out:
        in a container NVML does not list our pids, and that looks like holding nothing.
        """
        listed: dict[DeviceId, dict[int, int | None]] = {}
        for gpu in self._gpus:
            try:
                listed[gpu.device.id] = self._processes(gpu.handle, pids)
            except self.nvml.NVMLError:
                continue
        if not any(listed.values()):
            return {}
        return {device: _sum(held.values()) for device, held in listed.items() if None not in held.values()}

    def close(self) -> None:
        if self.nvml is not None:
            library, self.nvml = self.nvml, None
            try:
                library.nvmlShutdown()
            except library.NVMLError:
                return  # a driver that went away has nothing left to shut down

    def _find(self, indices: Sequence[int], budget: int | None) -> None:
        try:
            count = int(self.nvml.nvmlDeviceGetCount())
        except self.nvml.NVMLError as error:
            self.reason = f"the NVIDIA driver does not list its GPUs (NVML: {error})"
            return
        notes = []
        for index in dict.fromkeys(indices):
            if index >= count:
                there = f"only {', '.join(map(str, range(count)))}" if count else "none"
                notes.append(f"gpu_devices names GPU {index}, but there is {there}")
                continue
            try:
                self._gpus.append(self._gpu(index, budget))
            except self.nvml.NVMLError as error:
                notes.append(f"GPU {index} is left out: it cannot be read (NVML: {error})")
        self.notes = tuple(notes)
        if not self._gpus:
            self.reason = "none of gpu_devices can be used: " + "; ".join(notes)

    def _gpu(self, index: int, budget: int | None) -> _Gpu:
        handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
        name = self.nvml.nvmlDeviceGetName(handle)
        device_id = f"gpu:{index}"
        reading = self._reading(handle, device_id)
        # Less than the total: the driver keeps a part for itself.
        usable = reading.used + reading.free
        default = usable - max(round(usable * MARGIN_SHARE), MARGIN_BYTES)
        device = Device(
            id=device_id,
            kind=DeviceKind.GPU,
            index=index,
            name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
            total=reading.total,
            capacity=min(budget, usable) if budget is not None else max(0, default),
        )
        return _Gpu(device, handle, reading)

    def _reading(self, handle: Any, device_id: DeviceId) -> DeviceReading:
        try:  # version 2 does not count the driver's reserve as used
            memory = self.nvml.nvmlDeviceGetMemoryInfo(handle, version=self.nvml.nvmlMemory_v2)
        except (self.nvml.NVMLError_FunctionNotFound, self.nvml.NVMLError_ArgumentVersionMismatch):
            memory = self.nvml.nvmlDeviceGetMemoryInfo(handle)
        return DeviceReading(id=device_id, total=int(memory.total), used=int(memory.used), free=int(memory.free))

    def _processes(self, handle: Any, pids: AbstractSet[int]) -> dict[int, int | None]:
        """Bytes by process; a process that computes and draws is listed twice with the same figure."""
        listed = [*self._running("Compute", handle), *self._running("Graphics", handle)]
        return {process.pid: process.usedGpuMemory for process in listed if process.pid in pids}

    def _running(self, kind: str, handle: Any) -> list[Any]:
        name = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            found: list[Any] = getattr(self.nvml, f"{name}_v3")(handle)
        except self.nvml.NVMLError_FunctionNotFound:  # drivers before R510
            found = getattr(self.nvml, f"{name}_v2")(handle)
        return found


def _sum(sizes: Iterable[int | None]) -> int:
    return sum(size for size in sizes if size is not None)


def _pynvml() -> Nvml:
    # Imported late: a machine without it must still serve.
    import pynvml  # noqa: PLC0415

    return pynvml
