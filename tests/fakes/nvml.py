"""A stand-in for pynvml: the functions that the router calls, GPUs made to order, and real NVML errors on demand."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

MIB = 1024**2


@dataclass
class FakeGpu:
    """One GPU.

    Attributes:
        reserved: bytes that the driver keeps.
        processes: bytes by pid, None = NVML does not tell.
        drawing: the same of those that also draw.
        error: every call about it fails with this NVML code.
        process_error: only the process lists fail.
    """

    name: str | bytes = "NVIDIA Test GPU"
    total: int = 24_576 * MIB
    used: int = 0
    reserved: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    drawing: dict[int, int | None] = field(default_factory=dict)
    error: int | None = None
    process_error: int | None = None


@dataclass
class FakeNvml:
    """NVML with these GPUs.

    Attributes:
        init_error: NVML code that `nvmlInit` fails with.
        old_driver: knows neither version 2 of the memory figures nor version 3 of the process lists.
        answering: while it is cleared, every call hangs.
    """

    gpus: list[FakeGpu] = field(default_factory=list)
    init_error: int | None = None
    old_driver: bool = False
    answering: threading.Event = field(default_factory=threading.Event)
    opened: int = 0

    NVMLError = pynvml.NVMLError
    NVMLError_FunctionNotFound = pynvml.NVMLError_FunctionNotFound
    NVMLError_ArgumentVersionMismatch = pynvml.NVMLError_ArgumentVersionMismatch
    nvmlMemory_v2 = pynvml.nvmlMemory_v2  # noqa: N815

    def __post_init__(self) -> None:
        self.answering.set()

    def nvmlInit(self) -> None:  # noqa: N802
        self._answer(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._answer(None)
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._answer(None)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        gpu = self.gpus[index]
        self._answer(gpu.error)
        return gpu

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str | bytes:  # noqa: N802
        self._answer(gpu.error)
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int | None = None) -> SimpleNamespace:  # noqa: N802
        self._answer(gpu.error)
        free = gpu.total - gpu.reserved - gpu.used
        if version is None:
            return SimpleNamespace(total=gpu.total, used=gpu.used + gpu.reserved, free=free)
        self._answer(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND if self.old_driver else None)
        return SimpleNamespace(total=gpu.total, reserved=gpu.reserved, used=gpu.used, free=free)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, gpu: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        self._answer(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND if self.old_driver else None)
        return self._listed(gpu, gpu.processes)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, gpu: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        return self._listed(gpu, gpu.processes)

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, gpu: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        self._answer(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND if self.old_driver else None)
        return self._listed(gpu, gpu.drawing)

    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, gpu: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        return self._listed(gpu, gpu.drawing)

    def _listed(self, gpu: FakeGpu, processes: dict[int, int | None]) -> list[SimpleNamespace]:
        self._answer(gpu.error if gpu.error is not None else gpu.process_error)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in processes.items()]

    def _answer(self, code: int | None) -> None:
        if not self.answering.wait(timeout=30):
            raise AssertionError("a test left NVML hanging")
        if code is not None:
            raise pynvml.NVMLError(code)
