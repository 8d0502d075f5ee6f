"""How long a request will wait, from what loads and requests have taken so far. A forecast, not a promise."""

from __future__ import annotations

from router.core.lifecycle import LEAVING, Health, ReplicaState
from router.core.placement import Shortage, place
from router.core.records import Model, State
from router.core.types import DeviceView, Obstacle

_MIB = 1024**2


def expected_wait(state: State, model: Model, ahead: int, now: float) -> float:
    """Seconds until a request gets its slot if those before it in the line of its model take `ahead` slots."""
    serving = model.serving
    service = state.service_seconds(model)
    if not serving:
        return _until_ready(state, model, now) + ahead // model.spec.slots * service
    slots = sum(replica.slots for replica in serving)
    free = slots - sum(replica.busy for replica in serving)
    return 0.0 if ahead < free else (ahead - free + 1) * service / slots


def obstacle(state: State, model: Model) -> Obstacle | None:
    """Why the first of the line waits; None when nobody does."""
    if not model.queue:
        return None
    replica = model.leader
    if replica is not None and replica.is_coming:
        return Obstacle.LOADING
    if replica is not None and replica.state is ReplicaState.READY:
        return Obstacle.SLOT
    if (replica is not None and replica.state in LEAVING) or _makes_way(state, model):
        return Obstacle.DRAINING
    return Obstacle.MEMORY if model.is_hungry else Obstacle.FAILURE


def shortage(state: State, model: Model) -> str:
    """The memory that keeps a model out, with the arithmetic; empty when it has a replica, or memory is not why."""
    if model.replicas or model.health is not Health.AVAILABLE:
        return ""
    found = place(model.need, state.ledger.available(), state.ledger.capacity())
    if not isinstance(found, Shortage):
        return ""
    devices = [view for view in state.ledger.views() if view.device.id in found.missing]
    faults = [f"{view.device.id} cannot be read: {view.fault}" for view in devices if view.fault]
    others = [f"{view.others // _MIB:,} MiB of {view.device.id} are in use by other processes" for view in devices
              if not view.fault and view.others >= _MIB and _is_held_by_others(view)]  # fmt: skip
    return "; ".join([found.message, *faults, *others])


def _is_held_by_others(view: DeviceView) -> bool:
    """Whether there would be more room without them; else it is our own models, or their budget, that leave no more."""
    return view.available < view.device.capacity - view.booked


def _makes_way(state: State, model: Model) -> bool:
    return any(replica.makes_room_for == model.spec.name for replica in state.replicas.values())


def _until_ready(state: State, model: Model, now: float) -> float:
    """Seconds until its replica can serve: room must be made, the model loaded."""
    replica = model.leader
    load = state.load_seconds(model)
    if replica is not None and replica.state is ReplicaState.STARTING and replica.started is not None:
        return max(0.0, replica.started + load - now)
    if replica is not None and replica.state is ReplicaState.RESERVED:
        return load
    pause = max(0.0, (model.retry_at or now) - now)
    return max(pause, _until_room(state, model, now)) + load


def _until_room(state: State, model: Model, now: float) -> float:
    """Seconds until another can make room, at the latest; the longest lease on it comes on top."""
    residents = [(m, replica) for m in state.models.values() for replica in m.serving]
    if len({replica.model for replica in state.replicas.values()}) < state.policy.max_models and not model.is_hungry:
        return 0.0  # nothing says that it will not fit
    if model.promised or not residents or any(other.rests(replica) for other, replica in residents):
        return 0.0
    claim = model.urgency() if model.queue else now + min(state.policy.priority_offsets.values())
    turns = [(replica.ready or replica.since) + state.residency(other) for other, replica in residents]
    return max(0.0, max(claim, min(turns)) - now)
