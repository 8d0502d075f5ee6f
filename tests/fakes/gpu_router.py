"""The router on a machine with a GPU that gets into trouble: `python tests/fakes/gpu_router.py` runs `serve`.

NVML is a stand-in with one GPU of 2 GiB. SIGUSR1: the GPU falls off the bus, or is back. SIGUSR2: another process
takes 1800 MiB of it, or gives them back.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pynvml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.fakes.nvml import MIB, FakeGpu, FakeNvml

_TAKEN = 1800 * MIB


def main() -> int:
    gpu = FakeGpu(total=2048 * MIB)

    def lose() -> None:
        gpu.error = None if gpu.error else pynvml.NVML_ERROR_GPU_IS_LOST

    def take() -> None:
        gpu.used = 0 if gpu.used else _TAKEN

    signal.signal(signal.SIGUSR1, lambda *_: lose())
    signal.signal(signal.SIGUSR2, lambda *_: take())
    sys.modules["pynvml"] = FakeNvml([gpu])  # type: ignore[assignment]
    from router.cli import main as run_router  # noqa: PLC0415

    return run_router([])


if __name__ == "__main__":
    sys.exit(main())
