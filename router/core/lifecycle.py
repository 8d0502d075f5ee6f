"""States and the only transitions between them.

A replica lives once: it is reserved, started, serves, and goes. A model outlives its replicas; what it remembers
between them is whether it may be tried again. `DESIGN.md` beside this file draws both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from router.core.types import Status


class ReplicaState(Enum):
    """The way of one replica."""

    RESERVED = "reserved"  # memory booked, waits for its turn to load
    STARTING = "starting"  # a child is coming up
    READY = "ready"
    DRAINING = "draining"  # takes no new grants; leases run on
    STOPPING = "stopping"  # the child is being ended
    RECLAIMING = "reclaiming"  # the child is gone, its memory is not yet seen free
    GONE = "gone"


class Health(Enum):
    """Whether a model may be loaded."""

    AVAILABLE = "available"
    BACKOFF = "backoff"
    FAILED = "failed"


_R, _H = ReplicaState, Health

REPLICA_TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    _R.RESERVED: frozenset({_R.STARTING, _R.GONE}),
    _R.STARTING: frozenset({_R.READY, _R.STOPPING, _R.RECLAIMING}),
    _R.READY: frozenset({_R.DRAINING, _R.STOPPING, _R.RECLAIMING}),
    _R.DRAINING: frozenset({_R.READY, _R.STOPPING, _R.RECLAIMING}),
    _R.STOPPING: frozenset({_R.RECLAIMING}),
    _R.RECLAIMING: frozenset({_R.GONE}),
    _R.GONE: frozenset(),
}

HEALTH_TRANSITIONS: Mapping[Health, frozenset[Health]] = {
    _H.AVAILABLE: frozenset({_H.BACKOFF, _H.FAILED}),
    _H.BACKOFF: frozenset({_H.AVAILABLE, _H.FAILED}),
    _H.FAILED: frozenset({_H.AVAILABLE}),
}

# States whose memory will come back without any further decision.
LEAVING = frozenset({_R.DRAINING, _R.STOPPING, _R.RECLAIMING})

_OUTWARD: Mapping[ReplicaState, Status] = {
    _R.RESERVED: Status.LOADING,
    _R.STARTING: Status.LOADING,
    _R.READY: Status.READY,
    _R.DRAINING: Status.DRAINING,
    _R.STOPPING: Status.STOPPING,
    _R.RECLAIMING: Status.STOPPING,
}

_State = TypeVar("_State", ReplicaState, Health)


class IllegalTransition(Exception):
    """A bug: an event was applied to a state that does not allow it."""


def step(table: Mapping[_State, frozenset[_State]], old: _State, new: _State) -> _State:
    """Return `new` if the table allows it from `old`; raises IllegalTransition otherwise."""
    if new not in table[old]:
        raise IllegalTransition(f"{old} -> {new}")
    return new


def outward(replica: ReplicaState | None, health: Health) -> Status:
    """The status word for a model with a replica in this state (None: it has none) and this health."""
    if replica is None or replica is ReplicaState.RECLAIMING:
        if health is not Health.AVAILABLE:
            return Status.FAILED
        if replica is None:
            return Status.OFF
    return _OUTWARD[replica]
