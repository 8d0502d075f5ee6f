"""The outward picture of one model, made on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from router.core.forecast import Outlook
from router.core.ledger import Ledger
from router.core.lifecycle import Health, ReplicaState, outward
from router.core.obstacle import obstacle, shortage
from router.core.records import Model, Replica, State
from router.core.types import DeviceId, ModelView, ReplicaView


def model_view(state: State, model: Model, now: float, outlook: Outlook | None = None) -> ModelView:
    """Describe a model as it is at `now`; `outlook` is that moment's, where several are described."""
    replica = model.leader
    replicas = tuple(_replica_view(state.ledger, one) for one in model.replicas)
    oldest = model.queue.oldest_arrival()
    lacks = shortage(state, model) if model.is_hungry else ""
    own = ": ".join(filter(None, ("waits for room", lacks))) if model.is_hungry else model.reason
    return ModelView(
        name=model.spec.name,
        status=model.status,
        reason=(replica.reason if replica is not None else "") or own,
        replica=None if replica is None else replica.id,
        slots=_slots(model),
        busy=sum(one.busy for one in model.replicas),
        queued=model.queue.by_priority(),
        oldest_wait=0.0 if oldest is None else now - oldest,
        loading_since=replica.created if replica is not None and replica.is_coming else None,
        ready_since=None if replica is None else replica.ready,
        last_used=model.last_used,
        retry_at=model.retry_at,
        restarts=model.restarts,
        booked=_together(one.booked for one in replicas),
        seen=_together(one.seen for one in replicas),
        estimate=model.need,
        head_deadline=model.urgency() if model.queue else None,
        obstacle=obstacle(state, model),
        expected_wait=(outlook or Outlook(state, now)).wait(model, model.queue.width),
        load_seconds=model.experience.load.value,
        service_seconds=model.experience.service.value,
        cut="" if replica is None else replica.cut,
        shortage=lacks,
        misfit=model.misfit,
        replicas=replicas,
    )


def _replica_view(ledger: Ledger, replica: Replica) -> ReplicaView:
    return ReplicaView(
        id=replica.id,
        status=outward(replica.state, Health.AVAILABLE),
        reason=replica.reason,
        slots=replica.slots,
        busy=replica.busy,
        loading_since=replica.created if replica.is_coming else None,
        ready_since=replica.ready,
        last_used=replica.last_used or None,
        booked=dict(ledger.booked(replica.id)),
        seen=dict(ledger.seen(replica.id)),
        cut=replica.cut,
    )


def _slots(model: Model) -> int:
    """Of those that serve, work that runs to its end included; else of the one that is furthest."""
    working = [one for one in model.replicas if one.state in (ReplicaState.READY, ReplicaState.DRAINING)]
    if working:
        return sum(one.slots for one in working)
    return model.spec.slots if model.leader is None else model.leader.slots


def _together(parts: Iterable[Mapping[DeviceId, int]]) -> dict[DeviceId, int]:
    total: dict[DeviceId, int] = {}
    for part in parts:
        for device, size in part.items():
            total[device] = total.get(device, 0) + size
    return total
