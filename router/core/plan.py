"""Which models are loaded next, and who makes room for them. Reads the state, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from router.core.eviction import choose_victims
from router.core.lifecycle import LEAVING, ReplicaState
from router.core.placement import Shortage, place
from router.core.records import Model, Replica, State, Want
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
        wake: when to plan again, if nothing happens before.
    """

    revived: list[Replica] = field(default_factory=list)
    reservations: list[tuple[Model, Placement]] = field(default_factory=list)
    victims: list[tuple[Replica, str]] = field(default_factory=list)
    impossible: list[tuple[Model, str]] = field(default_factory=list)
    dropped: list[Model] = field(default_factory=list)
    wake: float | None = None

    def wake_by(self, at: float) -> None:
        self.wake = at if self.wake is None else min(self.wake, at)


class _Room:
    """Memory and places that are free, and those that will be once the leaving replicas are gone."""

    def __init__(self, state: State, leaving: Iterable[Replica]) -> None:
        self._ledger = state.ledger
        self.capacity = state.ledger.capacity()
        self.free = state.ledger.available()
        self.places = state.policy.max_models - len(state.replicas)
        self.coming = dict.fromkeys(self.free, 0)
        self.coming_places = 0
        for replica in leaving:
            self.expect(replica)

    def expect(self, replica: Replica) -> None:
        """Count on this replica's memory and place."""
        for device, amount in self._ledger.booked(replica.id).items():
            self.coming[device] += amount
        self.coming_places += 1

    def take(self, placement: Placement) -> None:
        """Set aside what a model needs, so that a later one cannot have it; may go below zero."""
        for device, amount in placement.bytes.items():
            self.free[device] -= amount
        self.places -= 1

    def fit_now(self, model: Model) -> Placement | Shortage | None:
        """Where the model fits at once; None when only the places are taken."""
        found = place(model.need, self.free, self.capacity)
        return found if self.places > 0 or isinstance(found, Shortage) else None

    def fit_later(self, model: Model, without: Sequence[Replica] = ()) -> Placement | None:
        """Where the model fits once all that is leaving, and these others, are gone."""
        if self.places + self.coming_places + len(without) <= 0:
            return None
        return self._fit(model, without)

    def fit_in_the_end(self, model: Model, residents: Sequence[Replica]) -> Placement | None:
        """Where the model would go if all residents left."""
        return self._fit(model, residents)

    def _fit(self, model: Model, without: Sequence[Replica]) -> Placement | None:
        free: dict[DeviceId, int] = {device: amount + self.coming[device] for device, amount in self.free.items()}
        for replica in without:
            for device, amount in self._ledger.booked(replica.id).items():
                free[device] += amount
        found = place(model.need, free, self.capacity)
        return found if isinstance(found, Placement) else None


def plan(state: State, now: float) -> Plan:
    """Decide on loads and evictions.

    Hungry models are taken in the order of their virtual deadlines. One that fits is reserved. One that does not gets
    the memory that is coming free; failing that, idle replicas make room at once, and busy ones only once its deadline
    has passed and they have had their minimum residency. Whatever is set aside for it is out of reach of those behind.
    """
    result = Plan()
    leaving = [replica for replica in state.replicas.values() if replica.state in LEAVING]
    for replica in leaving[:]:
        if _may_return(state, replica):
            result.revived.append(replica)
            leaving.remove(replica)
    room = _Room(state, leaving)
    hungry = sorted((m for m in state.models.values() if m.is_hungry), key=lambda m: (m.urgency(), -m.want))
    for model in hungry:
        _plan_one(state, model, room, result, now)
    return result


def _may_return(state: State, replica: Replica) -> bool:
    if replica.state is not ReplicaState.DRAINING or replica.makes_room_for is None:
        return False
    return not state.models[replica.makes_room_for].is_hungry


def _plan_one(state: State, model: Model, room: _Room, result: Plan, now: float) -> None:
    found = room.fit_now(model)
    if isinstance(found, Shortage) and found.never:
        result.impossible.append((model, found.message))
    elif isinstance(found, Placement) and model.lower_need is not None and state.is_making_room(model):
        room.take(found)  # what looked free was not enough: nothing less than all that can go will do
    elif isinstance(found, Placement):
        room.take(found)
        result.reservations.append((model, found))
    elif (later := room.fit_later(model)) is not None:
        room.take(later)
    elif not model.queue and model.want is not Want.OPERATOR:
        result.dropped.append(model)
    else:
        _make_room(state, model, room, result, now)


def _make_room(state: State, model: Model, room: _Room, result: Plan, now: float) -> None:
    chosen = _ids(result.victims)
    idle, busy = _candidates(state, model, result, now)
    candidates = [replica for replica in (*idle, *busy) if replica.id not in chosen]
    victims = choose_victims(candidates, lambda taken: room.fit_later(model, taken) is not None)
    if victims is None and model.urgency() > now:
        return
    # One whose deadline has passed takes what it can get now and keeps it from those behind: else each piece that
    # comes free would go to a smaller model, and a large one would never find all of its pieces free at once.
    for victim in candidates if victims is None else victims:
        room.expect(victim)
        result.victims.append((victim, model.spec.name))
    staying = [r for r in state.replicas.values() if r.state not in LEAVING and r.id not in _ids(result.victims)]
    later = room.fit_later(model) or room.fit_in_the_end(model, staying)
    if later is not None:
        room.take(later)


def _ids(victims: Iterable[tuple[Replica, str]]) -> set[int]:
    return {replica.id for replica, _ in victims}


def _candidates(state: State, model: Model, result: Plan, now: float) -> tuple[list[Replica], list[Replica]]:
    """Replicas that may make room: idle ones, least recently used first; busy ones, the least urgent first."""
    idle: list[Replica] = []
    busy: list[tuple[float, Replica]] = []
    urgency = model.urgency()
    for other in state.models.values():
        replica = other.replica
        if replica is None or replica.state is not ReplicaState.READY or replica.ready is None:
            continue
        if other.is_idle:
            idle.append(replica)
        else:
            due = max(urgency, replica.ready + state.policy.min_residency)
            if now < due < math.inf:
                result.wake_by(due)
            elif due <= now and urgency < other.urgency():
                busy.append((other.urgency(), replica))
    idle.sort(key=lambda replica: replica.last_used)
    busy.sort(key=lambda entry: (-entry[0], entry[1].last_used))
    return idle, [replica for _, replica in busy]


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
