"""Which models there are: what a new configuration changes about them while they run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from router.core.admission import removed
from router.core.commands import RejectCode
from router.core.fleet import Fleet
from router.core.grants import Grants
from router.core.growth import extras
from router.core.outbox import Outbox
from router.core.records import Model, State, Want
from router.core.types import ModelSpec, Policy


class Roster:
    """Carries a new configuration into the books. Part of the scheduler, and called by it alone."""

    def __init__(self, state: State, out: Outbox, fleet: Fleet, grants: Grants) -> None:
        self._state = state
        self._out = out
        self._fleet = fleet
        self._grants = grants

    def adopt(self, policy: Policy, specs: Iterable[ModelSpec], changed: Collection[str], now: float) -> None:
        """See `Scheduler.configure`."""
        state = self._state
        state.policy = policy
        named = {spec.name: spec for spec in specs}
        for name, model in state.models.items():
            if name not in named and not model.retired:
                self._retire(model, now)
        for name, spec in named.items():
            known = state.models.get(name)
            if known is None:
                state.models[name] = known = Model.of(spec, policy)
            else:
                self._renew(known, spec, now, anew=known.retired or name in changed)
            self._out.touch(known)
        state.survey()

    def _renew(self, model: Model, spec: ModelSpec, now: float, *, anew: bool) -> None:
        """Its waiters stay, and are served by whatever replica comes next."""
        comes_back = anew and bool(model.staying)
        model.ejected = model.ejected and not model.retired
        model.retired = False
        model.adopt(spec, self._state.policy, anew=anew)
        if anew:
            if comes_back:
                model.want = max(model.want, Want.PRELOAD)
            self._replace(model, "restarts with its new configuration", now)
        else:
            self._shrink(model, now)

    def _shrink(self, model: Model, now: float) -> None:
        """Let those go, the least missed first, of which it may have no more so many."""
        surplus = len(model.staying) - model.spec.max_replicas
        for replica in extras(model)[: max(0, surplus)]:
            self._fleet.let_go(replica, "is more than max_replicas allows now", now)

    def _retire(self, model: Model, now: float) -> None:
        model.retired = True
        model.want = Want.NO
        model.spec = replace(model.spec, min_replicas=0)
        self._grants.turn_away(model, RejectCode.REMOVED, removed(model.spec.name))
        model.forget_failures()
        self._replace(model, "has been removed from the configuration", now)
        self._out.touch(model)

    def _replace(self, model: Model, reason: str, now: float) -> None:
        for replica in list(model.replicas):
            replica.stale = True
            self._fleet.let_go(replica, reason, now)
