"""Why a model's first waiter waits."""

from __future__ import annotations

from router.core.lifecycle import LEAVING, Health, ReplicaState
from router.core.placement import Shortage, place
from router.core.records import Model, State
from router.core.room import kept_ram
from router.core.types import Obstacle

_MIB = 1024**2


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
    found = place(model.need, state.ledger.available(), state.ledger.capacity(), kept_ram(state))
    if not isinstance(found, Shortage):
        return ""
    devices = [view for view in state.ledger.views() if view.device.id in found.missing]
    faults = [f"{view.device.id} cannot be read: {view.fault}" for view in devices if view.fault]
    others = [f"{view.others // _MIB:,} MiB of {view.device.id} are in use by other processes" for view in devices
              if not view.fault and view.others >= _MIB]  # fmt: skip
    return "; ".join([found.message, *faults, *others])


def _makes_way(state: State, model: Model) -> bool:
    return any(replica.makes_room_for == model.spec.name for replica in state.replicas.values())
