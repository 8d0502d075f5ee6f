"""What the scheduler wants done. The engine carries it out in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from router.core.types import LeaseId, Placement, ReplicaId, TicketId


class RejectCode(Enum):
    """Why a ticket will not get a slot."""

    QUEUE_FULL = "queue_full"
    TIMEOUT = "timeout"
    LOAD_FAILED = "load_failed"
    BACKING_OFF = "backing_off"
    FAILED = "failed"
    TOO_LARGE = "too_large"
    EJECTED = "ejected"
    SHUTTING_DOWN = "shutting_down"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a child for this replica on these devices."""

    replica: ReplicaId
    model: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this replica's child; nothing of ours is running on it any more, unless `force`.

    Without `keep` what it remembers is of no use to the next one.
    """

    replica: ReplicaId
    model: str
    force: bool
    reason: str
    keep: bool = True


@dataclass(slots=True)  # not frozen, as `Ticket`
class Grant:
    """This ticket has a slot on this replica."""

    ticket: TicketId
    lease: LeaseId
    replica: ReplicaId
    model: str


@dataclass(frozen=True, slots=True)
class Reject:
    """This ticket is out of the queue without a slot."""

    ticket: TicketId
    model: str
    code: RejectCode
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `tick` at this time, or earlier."""

    at: float


@dataclass(frozen=True, slots=True)
class Changed:
    """The outward view of this model is another than before."""

    model: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """A replica of this model gives way to another model."""

    model: str
    for_model: str
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class Recycled:
    """This model's idle replica is started anew, as it holds so many bytes of RAM."""

    model: str
    held: int


Command = Start | Stop | Grant | Reject | WakeAt | Changed | Evicted | Recycled
