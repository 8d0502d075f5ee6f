"""What a model was seen to take becomes what the next load of it is booked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from router.core.estimate.projection import CUDA_PROCESS_BYTES, GPU_CONTEXT_BYTES, PROCESS_BYTES
from router.core.types import HOST, DeviceId, DeviceKind, Exhaustion, Need

OBSERVED = "observed"  # since the router was started
LEARNED = "learned"  # by an earlier one, from the same model, flags and devices
FORMULA = "formula"  # from the model's header and its flags
PROJECTED = "projected"  # by llama.cpp itself, before the load that goes on
_NEWS = 1.01
RAISED = "raised"  # after a load that ran out of memory
# These know of buffers that are allocated at the load but touched, and so seen in RAM, by the first full batch only.
FORESEEN = frozenset({FORMULA, PROJECTED, RAISED})


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
        return _foreseen(before, 0, max(before.host, host + PROCESS_BYTES), PROJECTED)
    on_one = max(0, gpu + gpus * GPU_CONTEXT_BYTES - max(0, gpus - 1) * before.each)
    return _foreseen(before, on_one, max(before.host, host + CUDA_PROCESS_BYTES), PROJECTED)


def raised_need(
    before: Need, exhausted: Exhaustion, seen: Mapping[DeviceId, int], most: Mapping[DeviceId, int]
) -> Need:
    """The need after a load has run out of memory: a quarter more, or what it asked for beside what it had.

    Args:
        before: what was thought so far.
        seen: the highest bytes seen of it per device.
        most: bytes that each device may give; in RAM no more than that is wanted.
    """
    on_gpu = exhausted.kind is DeviceKind.GPU and before.gpu > 0
    had = sum(amount for device, amount in seen.items() if (device != HOST) == on_gpu)
    thought = before.gpu if on_gpu else before.host
    wanted = max(thought * 5 // 4, had + exhausted.asked)
    if on_gpu:
        return _foreseen(before, wanted, before.host, RAISED)
    host = max(thought, min(wanted, most.get(HOST, wanted) - before.reserve))
    return _foreseen(before, before.gpu, host, RAISED)


def _foreseen(before: Need, gpu: int, host: int, source: str) -> Need:
    """None of it is growth."""
    return replace(before, gpu=gpu, host=host, source=source, base=host if before.base else 0)


def observed_need(before: Need, peak: Mapping[DeviceId, int], at_ready: int = 0, *, least: int = 0) -> Need:
    """The need after a replica has been seen.

    Args:
        before: what was thought so far. What was seen before only grows; an estimate is replaced.
        peak: the highest bytes seen per device; empty when nothing could be seen.
        at_ready: bytes of RAM that it held before it had any work, and so had grown by nothing.
        least: bytes of RAM that were foreseen without growth; 0 = nobody can tell the two apart.
    """
    if not peak:
        return before
    on_gpus = [amount for device, amount in peak.items() if device != HOST and amount]
    seen_gpu = max(0, sum(on_gpus) - max(0, len(on_gpus) - 1) * before.each)
    seen_host = peak.get(HOST, 0)
    if before.source in {OBSERVED, LEARNED}:
        seen_gpu, seen_host = max(seen_gpu, before.gpu), max(seen_host, before.host)
    elif not seen_gpu:
        seen_gpu = before.gpu  # the GPUs' share could not be seen: the estimate stays
    known = 0 if before.source == RAISED else before.base  # what was asked for then was never seen
    base = max(least, known, at_ready) if least else 0
    return replace(before, gpu=seen_gpu, host=seen_host, source=OBSERVED, base=base)


def outgrown(need: Need, peak: Mapping[DeviceId, int]) -> bool:
    """Whether a replica that has worked teaches anything new: the first time, and for each percent that it grows."""
    if not peak:
        return False
    if need.source != OBSERVED:
        return True
    on_gpus = sum(amount for device, amount in peak.items() if device != HOST)
    count = sum(1 for device, amount in peak.items() if device != HOST and amount)
    known = need.gpu + max(0, count - 1) * need.each
    return peak.get(HOST, 0) > need.host * _NEWS or on_gpus > known * _NEWS
