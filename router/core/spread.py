"""The ways to put a model on GPUs: which of them, and how many bytes on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from router.core.types import HOST, DeviceId, Need

_MIB = 1024**2
Spread = dict[DeviceId, int]


def gpu_spreads(need: Need, room: Mapping[DeviceId, int], capacity: Mapping[DeviceId, int]) -> list[Spread]:
    """The options, each with its bytes per GPU; what is not in an option is left for the host.

    Args:
        room: bytes bookable now.
        capacity: bytes bookable on an empty device; its order numbers the GPUs.
    """
    if need.gpu == 0:
        return [{}]
    everyone = [device for device in capacity if device != HOST]
    usable = [gpu for gpu in everyone if capacity[gpu] > 0]
    pin = need.pin
    named = [everyone[position] for position in pin.gpus if position < len(everyone)]
    if pin.shares:
        return [_by_shares(need, named or everyone)]
    if pin.numbered and not pin.alone:
        sets = [tuple(named or usable)]  # llama.cpp takes all that are named
    else:
        sets = _fewest(need, named, capacity, most=1)
        if not sets and not pin.numbered:
            sets = _fewest(need, usable, capacity, most=1 if pin.alone else len(usable))
    fitting = [_spread(need, chosen, room, capacity) for chosen in sets if _holds(need, chosen, capacity)]
    if fitting:
        return fitting
    # Not even an empty machine holds it: as much as there is, and the rest in RAM.
    left = named if named and pin.numbered else usable
    return [{gpu: capacity[gpu]} for gpu in left] if pin.alone and left else [{gpu: capacity[gpu] for gpu in left}]


def on_gpus(need: Need, count: int) -> int:
    """Bytes on all GPUs together when it is spread over so many."""
    return need.gpu + max(0, count - 1) * need.each


def ratio(need: Need, spread: Mapping[DeviceId, int]) -> tuple[int, ...]:
    """What llama.cpp is told about a model on several GPUs: MiB of it on each; empty when it is on one."""
    if len(spread) < 2:
        return ()
    return tuple(max(1, (size - need.each) // _MIB) for size in spread.values())


def _fewest(
    need: Need, gpus: Sequence[DeviceId], capacity: Mapping[DeviceId, int], *, most: int
) -> list[tuple[DeviceId, ...]]:
    """Every set of the smallest number of GPUs that could hold it."""
    for count in range(1, most + 1):
        sets = [chosen for chosen in combinations(gpus, count) if _holds(need, chosen, capacity)]
        if sets:
            return sets
    return []


def _holds(need: Need, gpus: Sequence[DeviceId], limits: Mapping[DeviceId, int]) -> bool:
    sizes = [limits[gpu] for gpu in gpus]
    if len(sizes) == 1:
        return sizes[0] >= need.gpu
    return all(size > need.each for size in sizes) and sum(sizes) >= on_gpus(need, len(sizes))


def _spread(
    need: Need, gpus: Sequence[DeviceId], room: Mapping[DeviceId, int], capacity: Mapping[DeviceId, int]
) -> Spread:
    """Its bytes by what is free where that is enough, else by what there is at most; none exceeds its GPU's part."""
    if len(gpus) == 1:
        return {gpus[0]: need.gpu}
    limits = room if _holds(need, gpus, room) else capacity
    return _divide(need, {gpu: max(0, limits[gpu] - need.each) for gpu in gpus})


def _by_shares(need: Need, gpus: Sequence[DeviceId]) -> Spread:
    """As its own `-ts` says, in thousandths."""
    pairs = zip(gpus, need.pin.shares, strict=False)
    parts = {gpu: round(share * 1000 / sum(need.pin.shares)) for gpu, share in pairs}
    return _divide(need, {gpu: part for gpu, part in parts.items() if part} or dict.fromkeys(gpus[:1], 1))


def _divide(need: Need, parts: Mapping[DeviceId, int]) -> Spread:
    together = max(1, sum(parts.values()))
    fixed = need.each if len(parts) > 1 else 0
    size = max(0, need.gpu - fixed)
    spread: Spread = {}
    before = 0
    for gpu, part in parts.items():
        # A difference of rounded running totals: the shares add up exactly.
        spread[gpu] = fixed + size * (before + part) // together - size * before // together
        before += part
    return {gpu: share for gpu, share in spread.items() if share}
