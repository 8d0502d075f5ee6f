"""What a model was seen to take becomes what the next load of it is booked for."""

from __future__ import annotations

from collections.abc import Mapping

from router.core.types import HOST, DeviceId, Need

OBSERVED = "observed"  # since the router was started
LEARNED = "learned"  # by an earlier one, from the same files, flags and devices


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
