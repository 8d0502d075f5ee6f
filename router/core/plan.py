"""Which models are loaded next, and who makes room for them. Reads the state, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from router.core.eviction import choose_victims
from router.core.lifecycle import LEAVING, ReplicaState
from router.core.placement import Shortage
from router.core.records import Model, Replica, State, Want
from router.core.room import Room, beside_pinned
from router.core.types import DeviceId, Placement, Priority

# What a waiting request of each class is worth when it is chosen whom to load next.
_WEIGHTS = {Priority.HIGH: 4.0, Priority.NORMAL: 1.0, Priority.LOW: 0.25}
_SHORTEST_SEC = 1e-3


@dataclass(slots=True)
class Plan:
    """What should happen now.

    Attributes:
        revived: draining replicas whose successor is not wanted any more.
        reservations: models that fit, with their placement.
        victims: replicas that make room, each with the model it makes room for.
        impossible: models that can never fit, each with the arithmetic.
        dropped: models that were wanted only if there was room, and there is none.
        wake: when to plan again, if nothing happens before.
    """

    revived: list[Replica] = field(default_factory=list)
    reservations: list[tuple[Model, Placement]] = field(default_factory=list)
    victims: list[tuple[Replica, str]] = field(default_factory=list)
    impossible: list[tuple[Model, str]] = field(default_factory=list)
    dropped: list[Model] = field(default_factory=list)
    wake: float | None = None

    def wake_by(self, at: float) -> None:
        if at == math.inf:
            return
        self.wake = at if self.wake is None else min(self.wake, at)


def plan(state: State, now: float) -> Plan:
    """Decide on loads and evictions.

    Hungry models are taken in turn: those whose claim has fallen due in that order, then the others by how much
    waiting work there is for a second of loading and serving them. One that fits is reserved. One that does not gets
    the memory that is coming free; failing that, idle replicas make room at once, or when they have lingered for long
    enough, and busy ones only once its deadline has passed and they have had their residency. Whatever is set aside
    for it is out of reach of those behind.
    """
    result = Plan()
    leaving = [replica for replica in state.replicas.values() if replica.state in LEAVING]
    for replica in leaving[:]:
        if _may_return(state, replica):
            result.revived.append(replica)
            leaving.remove(replica)
    room = Room(state, leaving)
    for model in sorted((m for m in state.models.values() if m.is_hungry), key=lambda m: _turn(state, m, now)):
        _plan_one(state, model, room, result, now)
    return result


def _turn(state: State, model: Model, now: float) -> tuple[float, ...]:
    """Sorts hungry models: the overdue ones by their claims, then those another makes room for, then the densest.

    Without the promise a model that has just gone for another could be back before it, all for nothing.
    """
    urgency = model.urgency()
    if urgency <= now:
        return (0, urgency, model.yielded)
    return (1 if model.promised else 2, -_density(state, model), urgency, -model.want)


def _density(state: State, model: Model) -> float:
    """Weighted requests that wait, per second that loading the model and serving them takes."""
    if not model.queue:
        return 0.0
    serving = model.queue.width * state.service_seconds(model) / model.spec.slots
    return _weight(model) / max(_SHORTEST_SEC, state.load_seconds(model) + serving)


def _weight(model: Model) -> float:
    """What its waiters count together."""
    return sum(_WEIGHTS[priority] * count for priority, count in model.queue.by_priority().items())


def _may_return(state: State, replica: Replica) -> bool:
    if replica.state is not ReplicaState.DRAINING or replica.makes_room_for is None:
        return False
    return not state.models[replica.makes_room_for].is_hungry


def _plan_one(state: State, model: Model, room: Room, result: Plan, now: float) -> None:
    found = room.fit_now(model)
    if isinstance(found, Shortage) and found.never:
        result.impossible.append((model, found.message))
    elif isinstance(found, Placement) and model.lower_need is not None and state.is_making_room(model):
        room.take(model, found)  # what looked free was not enough: nothing less than all that can go will do
    elif isinstance(found, Placement):
        room.take(model, found)
        result.reservations.append((model, found))
    elif (later := room.fit_later(model)) is not None:
        room.take(model, later)
    elif not model.queue and model.want is not Want.OPERATOR:
        result.dropped.append(model)
    elif (message := beside_pinned(state, model)) is not None:
        result.impossible.append((model, message))
    else:
        _make_room(state, model, room, result, now)


def _make_room(state: State, model: Model, room: Room, result: Plan, now: float) -> None:
    chosen = _ids(result.victims)
    candidates = [replica for replica in _candidates(state, model, result, now) if replica.id not in chosen]
    victims = choose_victims(candidates, lambda taken: room.fit_later(model, taken) is not None)
    if victims is None and (model.urgency() > now or room.is_barred(model, candidates)):
        return
    if victims is None and room.fit_in_the_end(model, _movable(state)) is None:
        return  # the memory that it lacks is not ours to give: whoever went would go for nothing
    # One whose deadline has passed takes what it can get now and keeps it from those behind: else each piece that
    # comes free would go to a smaller model, and a large one would never find all of its pieces free at once.
    for victim in candidates if victims is None else victims:
        room.expect(victim)
        result.victims.append((victim, model.spec.name))
    staying = [r for r in state.replicas.values() if r.state not in LEAVING and r.id not in _ids(result.victims)]
    later = room.fit_later(model) or room.fit_in_the_end(model, staying)
    if later is not None:
        room.take(model, later)


def _movable(state: State) -> list[Replica]:
    """What could leave at all, now or later."""
    return [r for r in state.replicas.values() if r.state not in LEAVING and not state.models[r.model].spec.pinned]


def _ids(victims: Iterable[tuple[Replica, str]]) -> set[int]:
    return {replica.id for replica, _ in victims}


def _candidates(state: State, model: Model, result: Plan, now: float) -> list[Replica]:
    """Replicas that may make room for this model: first the idle ones, then the busy ones, the least worth first."""
    idle: list[Model] = []
    busy: list[Model] = []
    urgency = model.urgency()
    waiting = sum(_weight(hungry) for hungry in state.models.values() if hungry.is_hungry)
    for other in state.models.values():
        replica = other.replica
        if replica is None or replica.state is not ReplicaState.READY or replica.ready is None or other.spec.pinned:
            continue
        due = max(urgency, replica.ready + _turn_length(state, other, now))
        until = min(due, other.experience.lingers_until(waiting)) if other.is_idle else due
        if now < until:
            result.wake_by(until)
        elif other.is_idle:
            idle.append(other)
        else:
            busy.append(other)
    by_worth = partial(_worth, state, now)
    return [other.replica for kind in (idle, busy) for other in sorted(kind, key=by_worth) if other.replica is not None]


def _turn_length(state: State, model: Model, now: float) -> float:
    """Seconds after it became ready for which a model that has work need not yield to a claim that is due.

    Its residency; and up to a load more for a short line that is not low priority: to come back for it takes longer.
    """
    residency, load = state.residency(model), state.load_seconds(model)
    key = model.queue.head_key()
    if key is None or key > now + state.policy.priority_offsets[Priority.NORMAL]:
        return residency
    line = model.queue.width * state.service_seconds(model) / model.spec.slots
    return residency + load if line <= load else residency


def _worth(state: State, now: float, model: Model) -> tuple[float, float]:
    """What is lost when the model goes, per byte that is won: expected demand x the cost of loading it again."""
    if model.replica is None:
        return (0.0, 0.0)
    seen = model.experience
    size = sum(state.ledger.booked(model.replica.id).values())
    return (seen.demand(now) * seen.load_seconds * model.spec.evict_cost / max(1, size), model.replica.last_used)


def startable(state: State, now: float) -> tuple[list[Replica], float | None]:
    """The reserved replicas whose load may begin, and when to look again at the others.

    One load per GPU at a time, until its memory is allocated, since each child reads the free memory once and fits
    itself into it. One that takes too long does not keep others any longer.
    """
    locked: dict[DeviceId, float] = {}
    for replica in state.replicas.values():
        if replica.state is ReplicaState.STARTING and replica.started is not None and not replica.allocated:
            _lock(locked, replica, replica.started + state.load_lock(replica.model))
    chosen: list[Replica] = []
    wake: float | None = None
    for replica in state.replicas.values():
        if replica.state is not ReplicaState.RESERVED:
            continue
        until = max((locked.get(gpu, now) for gpu in replica.placement.gpus), default=now)
        if until <= now:
            chosen.append(replica)
            _lock(locked, replica, now + state.load_lock(replica.model))
        else:
            wake = until if wake is None else min(wake, until)
    return chosen, wake


def _lock(locked: dict[DeviceId, float], replica: Replica, until: float) -> None:
    for gpu in replica.placement.gpus:
        locked[gpu] = max(locked.get(gpu, until), until)
