"""Where a replica goes: what it needs + what is free -> bytes per device, or what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.core.types import HOST, DeviceId, Need, Placement

_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Shortage:
    """A replica cannot be placed now.

    Attributes:
        missing: bytes short per device, on the option that lacks least; all of them > 0.
        never: it is more than the devices may ever give, so that no eviction helps.
        option, room, capacity: the bytes of that option, what there is of them now, and what there can be.
    """

    missing: Mapping[DeviceId, int]
    never: bool
    option: Mapping[DeviceId, int]
    room: Mapping[DeviceId, int]
    capacity: Mapping[DeviceId, int]

    @property
    def message(self) -> str:
        """The arithmetic in MiB, for people."""
        return _arithmetic(self.option, self.room, self.capacity, never=self.never)


def place(need: Need, free: Mapping[DeviceId, int], capacity: Mapping[DeviceId, int]) -> Placement | Shortage:
    """Place a replica.

    In this order: the one GPU with the least room that is enough; all GPUs in proportion to their capacity, if no
    single one could ever hold it; all of every GPU and the rest in RAM, if even together they could not (llama.cpp's
    `--fit` then offloads a part of the layers). A model that would fit one GPU waits for that GPU and is not split.

    Args:
        free: bytes bookable now; negative where more is taken than was booked.
        capacity: bytes bookable on an empty device. Its order breaks ties; a device missing here does not exist.
    """
    options = [_with_host(need, gpus) for gpus in _gpu_options(need.gpu, capacity)]
    room = {device: min(free.get(device, 0), limit) for device, limit in capacity.items()}
    if len(options) > 1:
        options.sort(key=lambda option: sum(room[device] for device in option if device != HOST))  # the tightest first
    best = min(options, key=lambda option: sum(_missing(option, room).values()))
    missing = _missing(best, room)
    if not missing:
        return Placement(bytes=best, reserve=need.reserve)
    never = bool(_missing(best, capacity))  # all options are alike in this: they differ in which GPU, never in how much
    return Shortage(missing, never, best, room, capacity)


def _gpu_options(size: int, capacity: Mapping[DeviceId, int]) -> list[dict[DeviceId, int]]:
    """The ways to put `size` bytes on GPUs; what is not in an option is left for the host."""
    if size == 0:
        return [{}]
    gpus = {device: limit for device, limit in capacity.items() if device != HOST and limit > 0}
    singles: list[dict[DeviceId, int]] = [{gpu: size} for gpu, limit in gpus.items() if limit >= size]
    if singles:
        return singles
    return [_split(size, gpus)] if sum(gpus.values()) >= size else [gpus]


def _split(size: int, gpus: Mapping[DeviceId, int]) -> dict[DeviceId, int]:
    """Shares of `size` in proportion to capacity; none exceeds its GPU's, as `size` does not exceed their sum."""
    together = sum(gpus.values())
    shares: dict[DeviceId, int] = {}
    before = 0
    for gpu, limit in gpus.items():
        # A difference of rounded running totals: the shares add up exactly.
        shares[gpu] = size * (before + limit) // together - size * before // together
        before += limit
    return {gpu: share for gpu, share in shares.items() if share}


def _with_host(need: Need, gpus: Mapping[DeviceId, int]) -> dict[DeviceId, int]:
    """One option with the host's part: what it needs there, its reserve, and what the GPUs do not take."""
    host = need.host + need.reserve + need.gpu - sum(gpus.values())
    return {**gpus, HOST: host} if host else dict(gpus)


def _missing(option: Mapping[DeviceId, int], room: Mapping[DeviceId, int]) -> dict[DeviceId, int]:
    return {device: short for device, size in option.items() if (short := size - room.get(device, 0)) > 0}


def _arithmetic(
    option: Mapping[DeviceId, int], room: Mapping[DeviceId, int], capacity: Mapping[DeviceId, int], *, never: bool
) -> str:
    """`needs 8,192 MiB on gpu:0 (4,096 MiB of 24,000 MiB free), …`; needs are rounded up and room down."""
    parts = []
    for device, size in option.items():
        limit = capacity.get(device, 0)
        has = f"at most {_down(limit)}" if never else f"{_down(max(0, room.get(device, 0)))} of {_down(limit)} free"
        parts.append(f"{_up(size)} on {device} ({has})")
    message = "needs " + " and ".join(parts)
    if never:
        return f"{message}; it can never fit: choose a smaller model or quantisation, or raise system.memory_budget_mb"
    short = ", ".join(f"{_up(size)} short on {device}" for device, size in _missing(option, room).items())
    return f"{message}: {short}"


def _up(size: int) -> str:
    return f"{-(-size // _MIB):,} MiB"


def _down(size: int) -> str:
    return f"{size // _MIB:,} MiB"
