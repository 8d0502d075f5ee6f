"""Which models are loaded next, and who makes room for them. Reads the state, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from router.core.eviction import choose_victims
from router.core.growth import LOOK_SEC, extras, is_worth_one_more, may_grow, overdue_at, shortfall
from router.core.lifecycle import LEAVING, ReplicaState
from router.core.placement import Shortage
from router.core.records import Model, Replica, State, Want
from router.core.room import Room, beside_pinned
from router.core.turns import density, line_seconds, turn_length, weight
from router.core.types import DeviceId, Placement


@dataclass(slots=True)
class Plan:
    """What should happen now.

    Attributes:
        revived: draining replicas whose successor is not wanted any more.
        reservations: models that fit, with their placement.
        victims: replicas that make room, each with the model it makes room for.
        impossible: models that can never fit, each with the arithmetic.
        dropped: models that were wanted only if there was room, and there is none.
        short: models that are to be kept with more replicas than there is room for, each with the arithmetic.
        wake: when to plan again, if nothing happens before.
    """

    revived: list[Replica] = field(default_factory=list)
    reservations: list[tuple[Model, Placement]] = field(default_factory=list)
    victims: list[tuple[Replica, str]] = field(default_factory=list)
    impossible: list[tuple[Model, str]] = field(default_factory=list)
    dropped: list[Model] = field(default_factory=list)
    short: list[tuple[Model, str]] = field(default_factory=list)
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
    for it is out of reach of those behind. If nobody is left waiting for memory, models may get one more replica.
    """
    result = Plan()
    leaving = [replica for replica in state.replicas.values() if replica.state in LEAVING]
    for replica in leaving[:]:
        if _may_return(state, replica):
            result.revived.append(replica)
            leaving.remove(replica)
    room = Room(state, leaving)
    hungry = sorted((m for m in state.models.values() if m.is_hungry), key=lambda m: _turn(state, m, now))
    for model in hungry:
        _plan_one(state, model, room, result, now)
    if state.growing and len(hungry) == len(result.reservations) + len(result.impossible) + len(result.dropped):
        _grow(state, room, result, now)
    return result


def _turn(state: State, model: Model, now: float) -> tuple[float, ...]:
    """Sorts hungry models: the overdue ones by their claims, then those another makes room for, then the densest.

    Without the promise a model that has just gone for another could be back before it, all for nothing.
    """
    urgency = model.urgency()
    if urgency <= now:
        return (0, urgency, model.yielded)
    dense = density(model, state.load_seconds(model), line_seconds(state, model))
    return (1 if model.promised else 2, -dense, urgency, -model.want)


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
        _reserve(model, found, room, result)
    elif (later := room.fit_later(model)) is not None:
        room.take(model, later)
    elif not model.queue and model.want is not Want.OPERATOR:
        result.dropped.append(model)
    elif (message := beside_pinned(state, model)) is not None:
        result.impossible.append((model, message))
    else:
        _make_room(state, model, room, result, now)


def _grow(state: State, room: Room, result: Plan, now: float) -> None:
    """Load one more replica of the models that are to have more, and of those whose line is worth it.

    Into memory that is idle only. What has been set aside for somebody in this plan is not.
    """
    short = {model.spec.name: shortfall(model) for model in state.growing if not model.is_hungry}
    for model in sorted(state.growing, key=lambda m: -short.get(m.spec.name, 0)):
        lacking = short.get(model.spec.name, 0)
        if not lacking and not (model.queue and may_grow(model)):
            continue
        if now < model.grows_at:
            result.wake_by(model.grows_at)
        elif lacking:
            _grow_to_base(model, lacking, room, result)
        else:
            _grow_by_line(state, model, room, result, now)


def _grow_to_base(model: Model, lacking: int, room: Room, result: Plan) -> None:
    for number in range(lacking):
        found = room.fit_now(model)
        if isinstance(found, Placement) and (found.whole or not (model.replicas or number)):
            _reserve(model, found, room, result)
            continue
        if isinstance(found, Shortage):
            result.short.append((model, found.message))
        return


def _grow_by_line(state: State, model: Model, room: Room, result: Plan, now: float) -> None:
    if not is_worth_one_more(state, model, now):
        result.wake_by(min(now + LOOK_SEC, overdue_at(state, model)))
        return
    found = room.fit_now(model)
    if not isinstance(found, Placement) or not found.whole:
        return  # whatever changes the memory has it looked at again
    if _are_free_of_loads(state, result, found, now):
        _reserve(model, found, room, result)


def _are_free_of_loads(state: State, result: Plan, found: Placement, now: float) -> bool:
    """Whether nothing loads on the GPUs of a placement, or is about to."""
    locked = locks(state)
    until = max((locked.get(gpu, now) for gpu in found.gpus), default=now)
    if until > now:
        result.wake_by(until)
        return False
    reserved = [one.placement for one in state.replicas.values() if one.state is ReplicaState.RESERVED]
    reserved += [placement for _, placement in result.reservations]
    return not any(set(found.gpus) & set(placement.gpus) for placement in reserved)


def _reserve(model: Model, found: Placement, room: Room, result: Plan) -> None:
    room.take(model, found)
    result.reservations.append((model, found))


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
    """What could leave at all, now or later: of a pinned model what is extra."""
    staying = (replica for replica in state.replicas.values() if replica.state not in LEAVING)
    return [r for r in staying if not state.models[r.model].spec.pinned or r in extras(state.models[r.model])]


def _ids(victims: Iterable[tuple[Replica, str]]) -> set[int]:
    return {replica.id for replica, _ in victims}


def _candidates(state: State, model: Model, result: Plan, now: float) -> list[Replica]:
    """Replicas that may make room for this model: extra ones, then idle ones, then busy ones, the least worth first."""
    found: list[tuple[tuple[float, ...], Replica]] = []
    waiting = sum(weight(hungry) for hungry in state.models.values() if hungry.is_hungry)
    for other in state.models.values():
        spare = extras(other)
        for replica in other.replicas:
            is_extra = replica in spare
            if not is_extra and (other.spec.pinned or replica.state is not ReplicaState.READY):
                continue
            if is_extra:
                until = _extra_until(state, other, replica)
            else:
                until = _base_until(state, other, replica, model=model, waiting=waiting, now=now)
            if now < until:
                result.wake_by(until)
            else:
                is_busy = replica.state is ReplicaState.READY and not other.rests(replica)
                found.append(((not is_extra, is_busy, *_worth(state, now, other, replica)), replica))
    return [replica for _, replica in sorted(found, key=lambda entry: entry[0])]


def _extra_until(state: State, model: Model, replica: Replica) -> float:
    """Until when an extra replica stays though others want memory: only what works does, for its residency."""
    if model.rests(replica) or replica.ready is None:
        return -math.inf
    return replica.ready + state.residency(model)


def _base_until(state: State, other: Model, replica: Replica, *, model: Model, waiting: float, now: float) -> float:
    """Until when a replica that serves, of another model, need not make room for this one.

    While it idles it is kept for a likely return alone, unless it is to be kept whether it works or not.
    """
    ready = replica.since if replica.ready is None else replica.ready
    due = max(model.urgency(), ready + turn_length(state, other, now))
    is_kept = bool(other.spec.min_replicas) and model.want is not Want.OPERATOR
    if is_kept or not other.rests(replica):
        return due
    return min(due, other.experience.lingers_until(waiting))


def _worth(state: State, now: float, model: Model, replica: Replica) -> tuple[float, float]:
    """What is lost when a replica goes, per byte that is won: expected demand x the cost of loading it again."""
    seen = model.experience
    size = sum(state.ledger.booked(replica.id).values())
    demand = seen.demand(now) / max(1, len(model.serving))
    return (demand * seen.load_seconds * model.spec.evict_cost / max(1, size), replica.last_used)


def startable(state: State, now: float) -> tuple[list[Replica], float | None]:
    """The reserved replicas whose load may begin, and when to look again at the others.

    One load per GPU at a time, until its memory is allocated, since each child reads the free memory once and fits
    itself into it. One that takes too long does not keep others any longer.
    """
    locked = locks(state)
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


def locks(state: State) -> dict[DeviceId, float]:
    """The GPUs that a load keeps others off, and until when."""
    locked: dict[DeviceId, float] = {}
    for replica in state.replicas.values():
        if replica.state is ReplicaState.STARTING and replica.started is not None and not replica.allocated:
            _lock(locked, replica, replica.started + state.load_lock(replica.model))
    return locked


def _lock(locked: dict[DeviceId, float], replica: Replica, until: float) -> None:
    for gpu in replica.placement.gpus:
        locked[gpu] = max(locked.get(gpu, until), until)
