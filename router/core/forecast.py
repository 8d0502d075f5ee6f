"""How long a request will wait, from what loads and requests have taken so far. A forecast, not a promise."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from functools import cached_property
from heapq import heapify, heapreplace
from typing import NamedTuple

from router.core.experience import Pace
from router.core.lifecycle import LEAVING, ReplicaState
from router.core.records import Model, Replica, State
from router.core.turns import density, line_seconds, turn_length, weight
from router.core.types import Priority


class Visit(NamedTuple):
    """The next stay in memory of a model that waits for it: `seconds` are its load and its turn."""

    model: Model
    claim: float
    promised: bool
    density: float
    seconds: float

    def rank(self, at: float) -> tuple[float, ...]:
        """The order in which memory is given away at a time; see `plan`."""
        return (0, self.claim) if self.claim <= at else (1 if self.promised else 2, -self.density)


class Outlook:
    """What is foretold at one moment. What all models' forecasts have in common is worked out once."""

    def __init__(self, state: State, now: float) -> None:
        self._state, self._now = state, now

    def wait(self, model: Model, ahead: int) -> float:
        """Seconds until a request gets its slot if those before it in the line of its model take `ahead` slots."""
        state, now = self._state, self._now
        if not model.serving:
            own = ahead // model.spec.slots * self._pace.service(model.experience)
            return self._until_ready(model) + own + self._turns_of_others(model, own, turn_length(state, model, now))
        line = self.line(model, ahead)
        if line is None:
            return 0.0
        return line + self._turns_of_others(model, line, max(self._next_claim, self._turn_ends(model)) - now)

    def line(self, model: Model, ahead: int) -> float | None:
        """Seconds until a model that serves has a slot for it, if nobody takes its place; None when one is free."""
        slots = sum(replica.slots for replica in model.serving)
        free = slots - sum(replica.busy for replica in model.serving)
        if ahead < free:
            return None
        pace = self._pace.service(model.experience) / slots
        return min(pace, self._until_a_slot(model)) + (ahead - free) * pace

    @cached_property
    def _visits(self) -> list[Visit]:
        return [self._visit(model, model.urgency()) for model in self._state.models.values() if model.is_hungry]

    @cached_property
    def _by_claim(self) -> list[Visit]:
        return sorted(self._visits, key=lambda visit: visit.claim)

    @cached_property
    def _by_worth(self) -> list[Visit]:
        return sorted(self._visits, key=lambda visit: visit.rank(-math.inf))

    @cached_property
    def _weight(self) -> float:
        return sum(weight(visit.model) for visit in self._visits)

    @cached_property
    def _next_claim(self) -> float:
        return min((visit.claim for visit in self._visits), default=math.inf)

    @cached_property
    def _pace(self) -> Pace:
        return self._state.pace()

    def _visit(self, model: Model, claim: float) -> Visit:
        load = self._pace.load(model.experience)
        line = model.queue.width * self._pace.service(model.experience) / model.spec.slots
        return Visit(model, claim, model.promised, density(model, load, line), load + self._stay(model, line))

    def _stay(self, model: Model, line: float) -> float:
        """How long a model that is loaded now will serve a line of so many seconds until another has its place."""
        residency = self._state.residency(model)
        return residency if model.experience.returns.is_expected else min(residency, line)

    def _until_a_slot(self, model: Model) -> float:
        """Seconds until the first of its running requests ends, if it takes as long as others did."""
        ages = [self._now - run.since for replica in model.serving for run in replica.leases.values()]
        return max(0.0, self._pace.service(model.experience) - max(ages, default=0.0))

    def _turns_of_others(self, model: Model, line: float, turn: float) -> float:
        """What a line of so many seconds is held up by, if its model must yield after `turn` and comes again."""
        if line <= turn or model.spec.pinned:
            return 0.0
        others = [visit.seconds for visit in self._visits if visit.model is not model]
        if not others:
            return 0.0
        rounds = 1 + int((line - turn) / max(1.0, self._state.residency(model)))
        return rounds * (self._pace.load(model.experience) + sum(others))

    def _until_ready(self, model: Model) -> float:
        """Seconds until its replica can serve: room must be made, the model loaded."""
        replica = model.leader
        load = self._pace.load(model.experience)
        if replica is not None and replica.state is ReplicaState.STARTING and replica.started is not None:
            return max(0.0, replica.started + load - self._now)
        if replica is not None and replica.state is ReplicaState.RESERVED:
            return load
        pause = max(0.0, (model.retry_at or self._now) - self._now)
        return max(pause, self._until_room(model)) + load

    def _until_room(self, model: Model) -> float:
        """Seconds until it has a place in memory, after those who come before it.

        Whoever is in memory leaves its place when it has run dry, or must yield; the places are given to those who wait
        for one as `plan` would, and each of them stays for its turn.
        """
        state, now = self._state, self._now
        if (
            len({replica.model for replica in state.replicas.values()}) < state.policy.max_models
            and not model.is_hungry
        ):
            return 0.0  # nothing says that it will not fit
        claim = model.urgency() if model.queue else now + state.policy.priority_offsets[Priority.NORMAL]
        places = [at for replica in state.replicas.values() if (at := self._leaves(replica, claim)) < math.inf]
        if not places:
            return max(0.0, claim - now)
        heapify(places)
        if model.promised:
            return max(0.0, places[0] - now)
        return self._in_turn(self._visit(model, claim), places)

    def _in_turn(self, own: Visit, places: list[float]) -> float:
        """Seconds until one of the places, a heap of times, is not given to another that comes before."""
        now, seen = self._now, {own.model.spec.name}
        due, worthy = 0, 0
        while True:
            at = max(now, places[0])
            due, worthy = _next(self._by_claim, due, seen), _next(self._by_worth, worthy, seen)
            if due == len(self._by_claim):
                return at - now
            first = self._by_claim[due]
            if first.claim > at:
                first = self._by_worth[worthy]
            if own.rank(at) <= first.rank(at):
                return at - now
            seen.add(first.model.spec.name)
            heapreplace(places, at + first.seconds)

    def _leaves(self, replica: Replica, claim: float) -> float:
        """When this replica's place will be free for another that claims it then; infinite if it will not."""
        state, now = self._state, self._now
        model = state.models[replica.model]
        if replica.state in LEAVING:
            return now
        if model.spec.pinned:
            return math.inf
        if replica.is_coming:
            began = now if replica.started is None else replica.started
            ready = max(now, began + self._pace.load(model.experience))
            return ready + self._stay(model, line_seconds(state, model))
        due = max(min(claim, self._next_claim), self._turn_ends(model))
        if model.rests(replica):
            return min(due, max(now, model.experience.lingers_until(self._weight)))
        if model.experience.returns.is_expected:
            return due
        return min(due, now + self._until_a_slot(model) + line_seconds(state, model))

    def _turn_ends(self, model: Model) -> float:
        """From when on a model that serves makes room for a claim that is due."""
        ready = max((replica.ready or replica.since for replica in model.serving), default=self._now)
        return ready + turn_length(self._state, model, self._now)


def _next(visits: Sequence[Visit], position: int, seen: Container[str]) -> int:
    """The position of the first from there on whose model has not been seen; their number when there is none."""
    while position < len(visits) and visits[position].model.spec.name in seen:
        position += 1
    return position
