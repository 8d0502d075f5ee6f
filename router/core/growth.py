"""How many replicas a model is worth: one more, those that are extra, those that have idled for long enough.

Reads the state, changes nothing. The reasons stand in `DESIGN.md`.
"""

from __future__ import annotations

import math

from router.core.forecast import Outlook
from router.core.lifecycle import Health, ReplicaState
from router.core.records import Model, Replica, State
from router.core.types import Priority

# An extra replica idles for so many loads, but not for less than so many seconds, before it goes.
_IDLE_LOADS = 4.0
_SHORTEST_IDLE = 30.0
# A model that has less than it keeps is looked at again by itself when memory changes; a line that grows, so often.
LOOK_SEC = 0.5
_NEVER: tuple[float, Replica | None] = (math.inf, None)


def shortfall(model: Model) -> int:
    """How many replicas it lacks of those that it is to be kept with; those that leave count until they are gone."""
    if model.ejected or model.health is not Health.AVAILABLE:
        return 0
    spec = model.spec
    return max(0, min(spec.min_replicas - len(model.staying), spec.max_replicas - len(model.replicas)))


def may_grow(model: Model) -> bool:
    """Whether a line may get the model one more replica: several are allowed, one is there and none is on its way."""
    return (
        len(model.replicas) < model.spec.max_replicas
        and model.health is Health.AVAILABLE
        and any(replica.state is ReplicaState.READY for replica in model.replicas)
        and not any(replica.is_coming for replica in model.replicas)
    )


def is_worth_one_more(state: State, model: Model, now: float) -> bool:
    """Whether the line of a model that serves is so long that one more replica would come in time to shorten it."""
    if not model.queue:
        return False
    # Nobody takes its place: where another wants memory and finds none, no model gets one more replica.
    outlook = Outlook(state, now)
    if (outlook.line(model, model.queue.width) or 0.0) > state.load_seconds(model):
        return True
    return now + (outlook.line(model, 0) or 0.0) >= overdue_at(state, model)


def overdue_at(state: State, model: Model) -> float:
    """When the first of the line will have waited beyond its deadline; a high one's has passed when it comes."""
    head = model.queue.peek()
    if head is None:
        return math.inf
    return max(head[0], head[1].arrived + state.policy.priority_offsets[Priority.NORMAL])


def extras(model: Model) -> list[Replica]:
    """The replicas beyond the base, the least missed first; draining ones are not counted any more."""
    if len(model.replicas) <= model.spec.base:
        return []
    staying = model.staying
    return sorted(staying, key=_use)[: max(0, len(staying) - model.spec.base)]


def _use(replica: Replica) -> tuple[int, bool, float]:
    """Sorts replicas of one model: those that load, the idle ones, those that work; the longest in that state first.

    Of those that work it is the oldest whose residency is over first.
    """
    rank = (ReplicaState.RESERVED, ReplicaState.STARTING, ReplicaState.READY).index(replica.state)
    is_busy = bool(replica.leases)
    return (rank, is_busy, replica.since if is_busy else replica.last_used)


def next_idle(model: Model) -> tuple[float, Replica | None]:
    """When the next of its replicas will have been idle for too long, and which; infinite when none will."""
    replicas, spec = model.replicas, model.spec
    patience = math.inf if spec.idle_timeout is None else spec.idle_timeout
    if not replicas or model.queue or (len(replicas) == 1 and (replicas[0].leases or patience == math.inf)):
        return _NEVER
    serving = model.serving
    if len(serving) > spec.base:
        patience = min(patience, max(_SHORTEST_IDLE, _IDLE_LOADS * model.experience.load_seconds))
    elif spec.pinned or len(serving) <= spec.min_replicas:
        return _NEVER
    idle = [replica for replica in serving if not replica.leases]
    if not idle or patience == math.inf:
        return _NEVER
    longest = min(idle, key=lambda replica: replica.last_used)
    return longest.last_used + patience, longest
