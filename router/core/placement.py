"""Where a replica goes: what it needs + what is free -> bytes per device, or what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from router.core.spread import gpu_spreads, ratio
from router.core.types import HOST, DeviceId, Need, Placement

_MIB = 1024**2
# A context is shortened before growth gets less than this part of RAM; what is more gives way to the context.
_GROWTH_SHARE = 8


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


def place(
    need: Need, free: Mapping[DeviceId, int], capacity: Mapping[DeviceId, int], kept: int = 0
) -> Placement | Shortage:
    """Place a replica.

    In this order: the GPUs that its flags name; the one GPU with the least room that is enough; the fewest that
    together could ever hold it, if no single one could; all of every GPU and the rest in RAM, if even together they
    could not (llama.cpp's `--fit` then offloads a part of the layers). A model that would fit one GPU waits for that
    GPU and is not split. In RAM, a context whose length is open is shortened if the machine could never hold it all.
    There is less room for growth where that keeps a model from being loaded at all: what may grow need not.

    Args:
        free: bytes bookable now; negative where more is taken than was booked.
        capacity: bytes bookable on an empty device. Its order numbers the GPUs and breaks ties; a device missing here
            does not exist.
        kept: bytes of RAM that others never give back, so that growth cannot have them.
    """
    ram = capacity.get(HOST, 0)
    shortened = _shortened(need, ram)
    host = need.host + need.growth - shortened
    room = {device: min(free.get(device, 0), limit) for device, limit in capacity.items()}
    spreads = gpu_spreads(need, room, capacity)
    options = [_with_host(need, host, spread, ram - kept) for spread in spreads]
    if len(options) > 1:
        options.sort(key=lambda option: sum(room[device] for device in option if device != HOST))  # the tightest first
    best = min(options, key=lambda option: sum(_missing(option, room).values()))
    missing = _missing(best, room)
    if missing:
        never = all(_missing(option, capacity) for option in options)
        return Shortage(missing, never, best, room, capacity)
    on_gpus = {device: size for device, size in best.items() if device != HOST}
    whole = not shortened and (not on_gpus or sum(on_gpus.values()) >= need.gpu)
    withheld = host + _left(need, on_gpus) - best.get(HOST, 0)
    return Placement(
        bytes=best,
        reserve=max(0, need.growth - withheld),
        whole=whole,
        shares=ratio(need, on_gpus) if whole and not need.pin.shares else (),
        visible=tuple(device for device in capacity if device != HOST) if need.pin.numbered and on_gpus else (),
        squeeze=shortened / need.spare if shortened else 0.0,
        withheld=withheld,
    )


def unkept(
    wanted: Iterable[tuple[str, Need, int]], capacity: Mapping[DeviceId, int]
) -> Iterator[tuple[str, int, Shortage | None]]:
    """The models of which fewer replicas fit beside each other on empty devices than are to be kept there.

    Args:
        wanted: name, need of one replica, and number of them to be kept, in the order in which they are loaded.

    Yields name, number that fits, and what the next one lacks; None where it would only fit cut.
    """
    free = dict(capacity)
    for name, need, count in wanted:
        for number in range(count):
            found = place(need, free, capacity)
            if isinstance(found, Shortage) or (number and not found.whole):
                yield name, number, found if isinstance(found, Shortage) else None
                break
            for device, size in found.bytes.items():
                free[device] -= size


def _shortened(need: Need, ram: int) -> int:
    """The part of its spare bytes that a model without a GPU has to give up so that RAM could ever hold it."""
    least = min(need.growth, ram // _GROWTH_SHARE)
    excess = max(0, need.host + least - ram)
    return min(excess, need.spare) if need.gpu == 0 and excess - least <= need.spare else 0


def _with_host(need: Need, host: int, gpus: Mapping[DeviceId, int], ram: int) -> dict[DeviceId, int]:
    """One option with the host's part: `host` and what the GPUs do not take, less growth where that is too much."""
    host += _left(need, gpus)
    host -= min(need.reserve, max(0, host - ram))
    return {**gpus, HOST: host} if host else dict(gpus)


def _left(need: Need, gpus: Mapping[DeviceId, int]) -> int:
    left = max(0, need.gpu - sum(gpus.values()))
    return max(0, left - need.spare) if gpus else left  # llama.cpp shortens the context first


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
