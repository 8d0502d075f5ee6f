"""Whether the scheduler keeps its word: what has stood still for longer than it can."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from router.core.lifecycle import ReplicaState
from router.core.records import Replica, State
from router.core.types import LeaseId, ReplicaId

# What is late by less may only have been looked at in the wrong moment, or on a machine that is short of breath.
_SLACK_SEC = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """The longest that each step may take, in seconds.

    Attributes:
        load: from the start of a child until it serves.
        lease: from a grant to the moment its slot is idle again.
        stop: from the wish to stop a child to its end.
        keep: to save one conversation before that, or to restore one after a load.
        reclaim: from the end of a child to the moment its memory is seen free.
    """

    load: float
    lease: float
    stop: float
    reclaim: float
    keep: float = 0.0

    def with_step(self, replica: Replica) -> float:
        """How long a replica may be in its state."""
        keeping = self.keep * (replica.slots + 1)  # more than there are slots come back together, as one
        match replica.state:
            case ReplicaState.STARTING:
                return self.load + keeping
            case ReplicaState.DRAINING:
                return self.lease
            case ReplicaState.STOPPING:
                return self.stop + keeping
            case ReplicaState.RECLAIMING:
                return self.reclaim
            case _:
                return math.inf


_WORDS = {
    ReplicaState.STARTING: "loading",
    ReplicaState.DRAINING: "draining",
    ReplicaState.STOPPING: "stopping",
    ReplicaState.RECLAIMING: "giving its memory back",
}


def troubles(
    state: State,
    first_deadline: float | None,
    patience: Patience,
    held: Mapping[ReplicaId, Collection[LeaseId]],
    now: float,
) -> Iterator[str]:
    """What has gone wrong, each in half a sentence; nothing when all is well.

    Args:
        first_deadline: when the first of all waiters should be turned away.
        held: the leases that somebody still works for, per replica.
    """
    if first_deadline is not None and now - first_deadline > _SLACK_SEC:
        yield f"a request should have been turned away {now - first_deadline:.0f} s ago"
    for replica in state.replicas.values():
        yield from _of_line(state, replica, now)
        yield from _of_step(replica, patience, now)
        yield from _of_slots(replica, patience, held.get(replica.id, ()), now)


def _of_line(state: State, replica: Replica, now: float) -> Iterator[str]:
    head = state.models[replica.model].queue.peek()
    if head is None or not replica.has_room_for(head[1]):
        return
    since = max(head[1].arrived, replica.last_used, replica.since)
    if now - since > _SLACK_SEC:
        yield f"a request for model '{replica.model}' has waited {now - since:.0f} s beside free slots"


def _of_step(replica: Replica, patience: Patience, now: float) -> Iterator[str]:
    longest, took = patience.with_step(replica), now - replica.since
    if took > longest + _SLACK_SEC:
        word = _WORDS[replica.state]
        yield f"model '{replica.model}' has been {word} for {took:.0f} s, which takes {longest:.0f} s at most"


def _of_slots(replica: Replica, patience: Patience, held: Collection[LeaseId], now: float) -> Iterator[str]:
    ages = [(lease, now - run.since) for lease, run in replica.leases.items()]
    if lost := sum(age > _SLACK_SEC and lease not in held for lease, age in ages):
        yield f"{lost} slot(s) of model '{replica.model}' are taken, and nobody works on them"
    if late := sum(age > patience.lease + _SLACK_SEC for _, age in ages):
        yield f"{late} slot(s) of model '{replica.model}' have been taken for more than {patience.lease:.0f} s"
