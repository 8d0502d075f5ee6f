"""What a model was seen to take becomes what the next load of it is booked for."""

from __future__ import annotations

from collections.abc import Mapping

from router.core.estimate.projection import CUDA_PROCESS_BYTES, GPU_CONTEXT_BYTES, PROCESS_BYTES
from router.core.types import HOST, DeviceId, Need

OBSERVED = "observed"  # since the router was started
LEARNED = "learned"  # by an earlier one, from the same model, flags and devices
FORMULA = "formula"  # from the model's header and its flags
PROJECTED = "projected"  # by llama.cpp itself, before the load that goes on
# These know of buffers that are allocated at the load but touched, and so seen in RAM, by the first full batch only.
FORESEEN = frozenset({FORMULA, PROJECTED})


def projected_need(before: Need, gpu: int, host: int, gpus: int) -> Need:
    """The need after the child has announced what it will allocate.

    Args:
        before: what was thought so far; what has been seen once is better knowledge and stays.
        gpu, host: bytes of its buffers.
        gpus: how many it is spread over.
    """
    if before.source in {OBSERVED, LEARNED}:
        return before
    # In RAM it counts buffers only, where the formula counts mapped files and copies too.
    if not gpu:
        return Need(0, max(before.host, host + PROCESS_BYTES), before.reserve, PROJECTED)
    return Need(gpu + gpus * GPU_CONTEXT_BYTES, max(before.host, host + CUDA_PROCESS_BYTES), before.reserve, PROJECTED)


def observed_need(before: Need, peak: Mapping[DeviceId, int], reserve: int) -> Need:
    """The need after a replica has been seen.

    Args:
        before: what was thought so far. What was seen before only grows; an estimate is replaced.
        peak: the highest bytes seen per device; empty when nothing could be seen.
        reserve: growth allowance in host RAM, kept on top.
    """
    if not peak:
        return before
    seen_gpu = sum(amount for device, amount in peak.items() if device != HOST)
    seen_host = peak.get(HOST, 0)
    if before.source in {OBSERVED, LEARNED}:
        seen_gpu, seen_host = max(seen_gpu, before.gpu), max(seen_host, before.host)
    elif not seen_gpu:
        seen_gpu = before.gpu  # the GPUs' share could not be seen: the estimate stays
    return Need(seen_gpu, seen_host, reserve, OBSERVED)
