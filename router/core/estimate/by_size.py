"""First knowledge of what a replica will take: the size of its files, a factor, and its flags about GPUs.

For files that cannot be read; `projection` knows better.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.core.estimate.run import read_run
from router.core.types import Need

# What a child with its layers on a GPU still holds in RAM: the CUDA libraries and driver buffers (a few hundred MiB),
# the token embeddings, which llama.cpp keeps on the CPU, and staging buffers. What is seen after the load replaces it.
GPU_CHILD_HOST_BYTES = 512 * 1024**2


def estimate(*, file_bytes: int, multiplier: float, gpu_available: bool, flags: Sequence[str], cache_ram: int) -> Need:
    """What to book for a first load.

    A model goes to the GPU as a whole when there is one and its flags do not forbid it. A `-ngl` below the number of
    layers is booked as if it were all of them: too much for a moment, corrected by what is seen.

    Args:
        file_bytes: bytes of all files it loads: shards, projector, adapters.
        multiplier: file size times this = memory (context and compute buffers included).
        flags: llama-server's flags of this model.
        cache_ram: bytes of host RAM that its prompt cache may grow into.
    """
    weights = round(file_bytes * multiplier)
    reserve = max(0, cache_ram)
    if gpu_available and uses_gpu(flags):
        return Need(gpu=weights, host=GPU_CHILD_HOST_BYTES, reserve=reserve)
    return Need(gpu=0, host=weights, reserve=reserve)


def uses_gpu(flags: Sequence[str]) -> bool:
    """False when the flags keep every layer on the CPU: `-ngl 0` or `-dev none`."""
    return read_run(flags, slots=1).gpu_layers != 0
