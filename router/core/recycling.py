"""Which replicas are started anew for the RAM they hold: a leak goes with the process, while nobody works on it."""

from __future__ import annotations

from router.core.lifecycle import ReplicaState
from router.core.records import Replica, State
from router.core.types import HOST

# It must have served for so many times as long as it took to load. Else a limit that is too low, for which a fresh
# replica holds too much already, would have it load all the time.
_LOADS = 5


def outsized(state: State, replica: Replica, now: float) -> int | None:
    """Bytes of RAM that it holds, if that is more than its model allows and it is idle; None when it may stay."""
    model = state.models[replica.model]
    limit, idle = model.spec.max_rss, not replica.leases and not model.queue
    # One after the other: those beside it serve meanwhile.
    if limit is None or not idle or any(one.state is not ReplicaState.READY for one in model.replicas):
        return None
    if replica.started is None or replica.ready is None:
        return None
    if now - replica.ready < _LOADS * (replica.ready - replica.started):
        return None
    held = state.ledger.seen(replica.id).get(HOST, 0)
    return held if held > limit else None
