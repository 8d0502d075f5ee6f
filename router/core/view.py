"""The outward picture of one model, made on demand."""

from __future__ import annotations

from router.core.forecast import expected_wait, obstacle, shortage
from router.core.lifecycle import ReplicaState
from router.core.records import Model, State
from router.core.types import ModelView


def model_view(state: State, model: Model, now: float) -> ModelView:
    """Describe a model as it is at `now`."""
    replica, ledger = model.replica, state.ledger
    oldest = model.queue.oldest_arrival()
    lacks = shortage(state, model) if model.is_hungry else ""
    own = ": ".join(filter(None, ("waits for room", lacks))) if model.is_hungry else model.reason
    loading = replica is not None and replica.state in (ReplicaState.RESERVED, ReplicaState.STARTING)
    return ModelView(
        name=model.spec.name,
        status=model.status,
        reason=(replica.reason if replica is not None else "") or own,
        replica=None if replica is None else replica.id,
        slots=model.spec.slots if replica is None else replica.slots,
        busy=0 if replica is None else replica.busy,
        queued=model.queue.by_priority(),
        oldest_wait=0.0 if oldest is None else now - oldest,
        loading_since=replica.created if replica is not None and loading else None,
        ready_since=None if replica is None else replica.ready,
        last_used=model.last_used,
        retry_at=model.retry_at,
        restarts=model.restarts,
        booked={} if replica is None else dict(ledger.booked(replica.id)),
        seen={} if replica is None else dict(ledger.seen(replica.id)),
        estimate=model.need,
        head_deadline=model.urgency() if model.queue else None,
        obstacle=obstacle(state, model),
        expected_wait=expected_wait(state, model, model.queue.width, now),
        load_seconds=model.experience.load.value,
        service_seconds=model.experience.service.value,
        cut="" if replica is None else replica.cut,
        shortage=lacks,
        misfit=model.misfit,
    )
