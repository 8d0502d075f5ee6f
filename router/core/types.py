"""The vocabulary of the scheduler: plain frozen values, standard library only.

Times are seconds of one monotonic clock, handed in by the caller. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

ReplicaId = int  # counted up from 1, never used twice, so that a late event about a dead replica falls on the floor
TicketId = int
LeaseId = int
DeviceId = str  # "gpu:0", "gpu:1", … or "host"

HOST: DeviceId = "host"


class Priority(IntEnum):
    """Class of a request; a lower number is served earlier."""

    HIGH = 1
    NORMAL = 2
    LOW = 3


class DeviceKind(StrEnum):
    GPU = "gpu"
    HOST = "host"


class Status(StrEnum):
    """The outward words for a model's state: few and stable."""

    OFF = "off"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


class Obstacle(StrEnum):
    """Why the first of a model's waiters waits, in the words that clients see."""

    LOADING = "loading"
    SLOT = "no slot"
    DRAINING = "draining victim"  # room is being made for the model, or its own last replica is on its way out
    MEMORY = "memory"
    FAILURE = "failure"  # it will be tried again


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """The kind of memory that a child did not get enough of, and the bytes that it asked for at last; 0 = not told."""

    kind: DeviceKind
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A memory that models live in.

    Attributes:
        id: `gpu:<NVML index>` or `host`.
        index: NVML index; None for the host.
        name: what the vendor calls it.
        total: bytes built in.
        capacity: bytes that models may take at most: the declared budget, else the total less a safety margin.
    """

    id: DeviceId
    kind: DeviceKind
    index: int | None
    name: str
    total: int
    capacity: int


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What a device shows at one moment; `used + free` may be less than `total` (reserved by the driver).

    Attributes:
        fault: why it could not be read now, so that the figures are old; empty when all is well.
    """

    id: DeviceId
    total: int
    used: int
    free: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Pin:
    """GPUs that a model's own flags settle on, by their position in `gpu_devices`; by default none.

    Attributes:
        gpus: these, in this order; empty = any.
        shares: proportions in which they hold it; empty = as the placement sees fit.
        alone: it is never spread over several.
        numbered: the flags number the GPUs, so that the child has to see all of them.
    """

    gpus: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    alone: bool = False
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica is expected to take.

    Attributes:
        gpu: bytes on accelerators if it is on one of them, 0 for a model that runs on the CPU.
        host: bytes of host RAM.
        reserve: bytes of host RAM that it may grow by with use: the prompt cache, context checkpoints.
        source: where the figures come from: `file size`, `formula`, `projected`, `learned`, `observed` or `raised`.
        each: bytes that each GPU beyond the first adds: its context, its compute buffer, a layer that is not cut.
        spare: bytes that it can do without by a shorter context, where the flags leave its length open.
        base: bytes of host RAM that it takes at most without such growth; 0 = not known. What it was seen to take
            beyond that is growth, and not booked a second time.
    """

    gpu: int
    host: int
    reserve: int = 0
    source: str = "file size"
    each: int = 0
    spare: int = 0
    pin: Pin = Pin()
    base: int = 0

    @property
    def grown(self) -> int:
        """The part of the host's bytes that is growth."""
        return min(self.reserve, max(0, self.host - self.base)) if self.base else 0

    @property
    def growth(self) -> int:
        """Bytes that it may still grow by beyond the host's."""
        return self.reserve - self.grown

    @property
    def total(self) -> int:
        return self.gpu + self.host


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a replica goes.

    Attributes:
        bytes: booked on each device.
        reserve: the part of the host's that is for growth.
        withheld: bytes of growth that the machine has no room for: it has to do without.
        whole: all of it is where it should be, in memory that is free. Otherwise llama.cpp has to make it fit.
        shares: proportions of a model that is spread over several GPUs, in their order; empty = its flags tell.
        visible: GPUs that the child may see, if they are more than those it is placed on.
        squeeze: the part of `Need.spare` that it has to do without in RAM, 0 to 1.
    """

    bytes: Mapping[DeviceId, int]
    reserve: int = 0
    whole: bool = True
    shares: tuple[int, ...] = ()
    visible: tuple[DeviceId, ...] = ()
    squeeze: float = 0.0
    withheld: int = 0

    @property
    def gpus(self) -> tuple[DeviceId, ...]:
        return tuple(device for device in self.bytes if device != HOST)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A configured model, as far as scheduling is concerned.

    Attributes:
        slots: parallel sequences expected of a replica until it tells its own number.
        need: what to book for the first load.
        idle_timeout: seconds without work after which it is unloaded; None = never.
        pinned: once in memory it stays: it neither makes room for others nor goes for being idle.
        evict_cost: how much dearer than its measured load its eviction is to be taken; 1 = just as dear.
        exclusive_with: models that must not be in memory together with it; it is enough if one of two names the other.
        load_seconds: what its loads took in earlier runs, as far as that was seen.
        max_rss: bytes of RAM; an idle replica that holds more is started anew. None = no bound.
        min_replicas: kept in memory as long as there is room, whether anybody asks or not.
        max_replicas: there are never more, however many wait.
    """

    name: str
    slots: int
    need: Need
    idle_timeout: float | None = None
    pinned: bool = False
    evict_cost: float = 1.0
    exclusive_with: frozenset[str] = frozenset()
    load_seconds: float | None = None
    max_rss: int | None = None
    min_replicas: int = 0
    max_replicas: int = 1

    @property
    def base(self) -> int:
        """Replicas that are not extra once the model is in memory."""
        return max(1, self.min_replicas)


@dataclass(slots=True)  # frozen it would take four times as long to make, and one is made for each request
class Ticket:
    """A request that asks for a slot.

    Attributes:
        arrived: when it came.
        deadline: when it gives up waiting (absolute).
        again: it had a slot already, and lost its replica or has more to do than one slot's worth. It was admitted
            once, so neither a full queue nor the pause after a crash turns it away: it waits like those in the queue.
        width: slots that it takes; all of them on a replica that has fewer.
        marks: of the beginnings of its text, the longest last (see `core.affinity`); empty where one replica is all.
    """

    id: TicketId
    model: str
    priority: Priority
    arrived: float
    deadline: float
    again: bool = False
    width: int = 1
    marks: tuple[int, ...] = ()


# ---------------------------------------------------------------------------------------------------------------------
# Views: what the outside may know. Built on demand, never kept.


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica as the outside sees it; the fields are those of `ModelView`."""

    id: ReplicaId
    status: Status
    reason: str
    slots: int
    busy: int
    loading_since: float | None
    ready_since: float | None
    last_used: float | None
    booked: Mapping[DeviceId, int]
    seen: Mapping[DeviceId, int]
    cut: str = ""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as the outside sees it. Times are of the monotonic clock; `None` = does not apply.

    Attributes:
        status: `ready` if any of its replicas is.
        reason: why it is in this state, in a sentence (failed, draining, loading).
        replica: the one that is furthest, and of those the oldest; the moments are its own.
        slots: of those that serve, together; of `replica` while none does; else what one is expected to have.
        busy: slots with work of ours, abandoned work included.
        queued: waiters by class.
        oldest_wait: seconds the longest waiter has waited.
        head_deadline: when the first waiter's claim falls due, or fell.
        obstacle: why it waits.
        expected_wait: seconds that one more request would probably wait.
        load_seconds, service_seconds: what its loads and its requests take, as far as that was seen.
        booked, seen: bytes per device; `estimate` is what would be booked for the next load.
        retry_at: when a model that failed will be tried again.
        cut: what llama.cpp has left out of the model in memory to make it fit, in words.
        shortage: the memory that it waits for, in words; empty when it waits for nothing, or for something else.
        misfit: it was wanted and cannot fit; `reason` has the arithmetic. The next request tries again.
        replicas: those that hold memory, the oldest first.
    """

    name: str
    status: Status
    reason: str
    replica: ReplicaId | None
    slots: int
    busy: int
    queued: Mapping[Priority, int]
    oldest_wait: float
    loading_since: float | None
    ready_since: float | None
    last_used: float | None
    retry_at: float | None
    restarts: int
    booked: Mapping[DeviceId, int]
    seen: Mapping[DeviceId, int]
    estimate: Need
    head_deadline: float | None = None
    obstacle: Obstacle | None = None
    expected_wait: float = 0.0
    load_seconds: float | None = None
    service_seconds: float | None = None
    cut: str = ""
    shortage: str = ""
    misfit: bool = False
    replicas: tuple[ReplicaView, ...] = ()

    @property
    def queue_depth(self) -> int:
        return sum(self.queued.values())

    @property
    def ready_replicas(self) -> int:
        return sum(one.status is Status.READY for one in self.replicas)


@dataclass(frozen=True, slots=True)
class LinePlace:
    """Where a waiter stands: how many before it, for how many more seconds, probably, and why its line waits.

    Attributes:
        shortage: the memory that is missing, in words, where that is why.
    """

    ahead: int
    expected_wait: float
    obstacle: Obstacle | None = None
    shortage: str = ""

    @property
    def position(self) -> int:
        """1 = next."""
        return self.ahead + 1


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as the outside sees it: measured total/used/free, and what the ledger makes of it."""

    device: Device
    total: int
    used: int
    free: int
    booked: int
    seen: int
    available: int  # bytes a new model could book now
    fault: str = ""  # why it cannot be read now, and gets no new model

    @property
    def others(self) -> int:
        """Bytes used by processes that are not ours."""
        return max(0, self.used - self.seen)


@dataclass(frozen=True, slots=True)
class Policy:
    """The knobs of the scheduler.

    Attributes:
        priority_offsets: seconds added to a ticket's arrival to give its fixed virtual deadline.
        min_residency: seconds a replica that has work is left alone after it became ready; None = twice what its model
            takes to load, within 1 to 30, and up to a load more to finish a short line.
        restart_grace: a child that dies after this many seconds of READY restarts at once, uncounted.
        failure_limit: so many failures, none of them forgotten, make a model FAILED.
        healthy_time: after so many seconds of READY in all since the last failure, failures are forgotten.
        backoff_base, backoff_cap: first and longest pause after a failure; doubles in between.
        load_lock: seconds after which a load that has not allocated its memory no longer keeps others off its GPUs, if
            it is not known how long it takes; twice as long as it takes otherwise.
    """

    max_models: int = 3
    max_queue: int = 500
    priority_offsets: Mapping[Priority, float] = field(
        default_factory=lambda: {Priority.HIGH: 0.0, Priority.NORMAL: 10.0, Priority.LOW: 60.0}
    )
    min_residency: float | None = None
    restart_grace: float = 10.0
    failure_limit: int = 5
    healthy_time: float = 600.0
    backoff_base: float = 1.0
    backoff_cap: float = 300.0
    load_lock: float = 30.0
