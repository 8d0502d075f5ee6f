"""Who comes into memory and who goes: a plan made and carried out."""

from __future__ import annotations

import math

from router.core.commands import Evicted, RejectCode, WakeAt
from router.core.fleet import Fleet
from router.core.grants import Grants
from router.core.outbox import Outbox
from router.core.plan import plan
from router.core.records import Model, Replica, State, Want
from router.core.room import misfit


class Moves:
    """Plans anew whenever it is asked to. Part of the scheduler, and called by it alone."""

    def __init__(self, state: State, out: Outbox, fleet: Fleet, grants: Grants) -> None:
        self._state = state
        self._out = out
        self._fleet = fleet
        self._grants = grants

    def replan(self, now: float) -> float:
        """Move whoever has to move now; returns when the next claim to memory falls due, or infinity."""
        if not self._state.has_open_questions():
            return math.inf
        self._fleet.drop_unwanted(now)
        decided = plan(self._state, now)
        for replica in decided.revived:
            self.revive(replica, now)
        for model, message in decided.impossible:
            self._refuse(model, message)
        for model in decided.dropped:
            model.want, model.reason = Want.NO, "was not loaded: there was no room without evicting another"
            self._out.touch(model)
        for model, placement in decided.reservations:
            self._fleet.reserve(model, placement, now)
        for model, message in decided.short:
            self._tell_short(model, message)
        for replica, for_model in decided.victims:
            self._evict(replica, for_model, now)
        if decided.wake is not None:
            self._out.add(WakeAt(decided.wake))
        self._fleet.start_reserved(now)
        return self._state.next_claim()

    def reconsider(self) -> None:
        """Who was refused because it could not fit has not failed any more once it could."""
        for model in self._state.models.values():
            if not model.misfit:
                continue
            why = misfit(self._state, model)
            reason = f"cannot fit: {why}" if why else ""
            if not why or model.reason != reason:
                model.misfit, model.reason = bool(why), reason
                self._out.touch(model)

    def revive(self, replica: Replica, now: float) -> None:
        """A draining replica stays after all, and serves its line."""
        self._fleet.revive(replica, now)
        model = self._state.models[replica.model]
        model.yielded = -math.inf
        self._grants.serve(model, now)

    def _refuse(self, model: Model, message: str) -> None:
        model.lower()
        model.want, model.reason, model.misfit = Want.NO, f"cannot fit: {message}", True
        self._grants.turn_away(model, RejectCode.TOO_LARGE, f"Model '{model.spec.name}' {model.reason}")
        self._out.touch(model)

    def _tell_short(self, model: Model, message: str) -> None:
        reason = f"{len(model.staying)} of {model.spec.min_replicas} replica(s) (min_replicas): {message}"
        if model.reason != reason:
            model.reason = reason
            self._out.touch(model)

    def _evict(self, replica: Replica, for_model: str, now: float) -> None:
        self._out.add(Evicted(replica.model, for_model, replica.id))
        model = self._state.models[replica.model]
        if model.staying == [replica] and not model.rests(replica):
            model.yielded = now
        replica.makes_room_for = for_model
        self._state.models[for_model].promised = True
        self._fleet.let_go(replica, f"makes room for {for_model}", now)
