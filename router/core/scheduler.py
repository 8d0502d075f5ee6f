"""The scheduler: one synchronous state machine, events in, commands out.

Every event brings its time; what has to be done comes back in order. The engine alone calls it and carries this out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from router.core.admission import RETRY_ELSEWHERE, SHUTTING_DOWN, refusal, timed_out
from router.core.appetite import Appetite
from router.core.commands import Command, Recycled, RejectCode, WakeAt
from router.core.fleet import Fleet
from router.core.forecast import Outlook
from router.core.grants import Grants
from router.core.growth import LOOK_SEC, may_grow, next_idle
from router.core.ledger import Ledger
from router.core.lifecycle import Health, ReplicaState
from router.core.liveness import Patience, troubles
from router.core.moves import Moves
from router.core.obstacle import obstacle, shortage
from router.core.outbox import Outbox
from router.core.records import Model, Replica, State, Want
from router.core.recycling import outsized
from router.core.roster import Roster
from router.core.setbacks import Setbacks
from router.core.types import (
    Device,
    DeviceId,
    DeviceReading,
    DeviceView,
    Exhaustion,
    LeaseId,
    LinePlace,
    ModelSpec,
    ModelView,
    Policy,
    ReplicaId,
    Ticket,
    TicketId,
)
from router.core.view import model_view

# Looking up a member takes its time, and each request does.
_BACKOFF, _DRAINING = Health.BACKOFF, ReplicaState.DRAINING
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Scheduler:
    """Owns the queues, the replicas' states and the ledger."""

    def __init__(self, policy: Policy, models: Iterable[ModelSpec], devices: Iterable[Device]) -> None:
        self._state = State(policy, Ledger(devices), {spec.name: Model.of(spec, policy) for spec in models})
        self._models = self._state.models
        self._replicas = self._state.replicas
        self._ledger = self._state.ledger
        self._closing = False
        self._next_claim = math.inf  # of the models that are hungry since the last plan
        self._out = Outbox()
        self._fleet = Fleet(self._state, self._out)
        self._grants = Grants(self._state, self._out)
        self._appetite = Appetite(self._state, self._out, self._fleet)
        self._setbacks = Setbacks(self._state, self._grants, self._appetite)
        self._moves = Moves(self._state, self._out, self._fleet, self._grants)
        self._roster = Roster(self._state, self._out, self._fleet, self._grants)

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> list[Command]:
        """A request asks for a slot: it is granted, queued or rejected."""
        model = self._models[ticket.model]
        replica = model.free_for(ticket) if not model.queue and not self._closing else None
        if replica is not None:
            if not ticket.again:
                model.experience.arrived(now)
            self._grants.grant(model, replica, ticket, now)
            return self._out.flush()
        refused = refusal(self._state, model, ticket, now, closing=self._closing)
        if refused is not None:
            self._out.add(refused)
            return self._out.flush()
        if not ticket.again:
            model.experience.arrived(now)
        if model.health is _BACKOFF and (model.retry_at is None or model.retry_at <= now):
            self._recover(model)
        self._grants.enter(model, ticket)
        if model.is_hungry or model.health is _BACKOFF:
            self._out.touch(model)
            return self._conclude(now)
        if self._grants.is_first_to_expire(ticket):
            self._out.add(WakeAt(ticket.deadline))
        if model.has_free_slots:
            self._grants.serve(model, now)  # it may stand before a wider one, for which there is no room yet
        if model.spec.max_replicas > 1 and now >= model.looks_at and may_grow(model):
            model.looks_at = now + LOOK_SEC
            return self._conclude(now)
        return self._out.flush()

    def cancel(self, ticket: TicketId, now: float) -> list[Command]:
        """A waiter has gone."""
        model = self._grants.leave(ticket)
        if model is None:
            return []
        self._grants.serve(model, now)  # there may be room for those behind it
        if not model.queue:
            self._out.touch(model)
            self._fleet.abandon(model, now)
            self._replan(now)
        return self._out.flush()

    def end(self, lease: LeaseId, now: float) -> list[Command]:
        """A lease is over and its slot is idle; unknown leases (of dead replicas) are ignored."""
        replica = self._grants.end(lease, now)
        if replica is None:
            return []
        model = self._models[replica.model]
        if model.queue:
            self._grants.serve(model, now)
        elif not model.is_at_work:
            model.experience.returns.ran_dry(now)
            if model.spec.max_rss is not None:
                self._recycle(replica, now)
        if replica.state is _DRAINING and not replica.leases:
            self._fleet.stop(replica, now, force=False)
        elif model.rests(replica) or self._next_claim <= now:
            return self._conclude(now)  # it may have to make room
        return self._out.flush()

    # -- replicas ----------------------------------------------------------------------------------------------------

    def replica_ready(
        self,
        replica_id: ReplicaId,
        slots: int,
        now: float,
        *,
        readings: Iterable[DeviceReading],
        usage: Mapping[DeviceId, int],
        peak: Mapping[DeviceId, int] = _NOTHING,
        cut: str = "",
    ) -> list[Command]:
        """A child serves. Its waiters are granted before anything else is decided.

        The devices' readings and what the child holds are of the same moment, after its load; `peak` is the most that
        it ever held, and `cut` what llama.cpp has left out to make it fit.
        """
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state is not ReplicaState.STARTING:
            return []
        self._ledger.observe_devices(readings)
        self._ledger.observe_replica(replica_id, usage)
        self._ledger.observe_peak(replica_id, peak)
        replica.to(ReplicaState.READY, now)
        replica.cut = cut
        replica.ready = replica.last_used = now
        replica.slots = slots
        model = self._models[replica.model]
        model.want = Want.NO
        model.reason = ""
        model.abandoned = False
        if replica.started is not None:
            model.experience.load.note(now - replica.started)
        self._appetite.loaded(replica)
        self._out.touch(model)
        self._grants.serve(model, now)
        return self._conclude(now)

    def replica_projected(self, replica_id: ReplicaId, gpu: int, host: int, now: float) -> list[Command]:
        """A child that is being loaded has announced what it will allocate, in bytes."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state is not ReplicaState.STARTING:
            return []
        return self._conclude(now) if self._appetite.projected(replica, gpu, host) else []

    def replica_allocated(self, replica_id: ReplicaId, now: float) -> list[Command]:
        """A child that is being loaded has all the memory that the load takes: the next may begin."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state is not ReplicaState.STARTING or replica.allocated:
            return []
        replica.allocated = True
        return self._conclude(now)

    def replica_exited(
        self,
        replica_id: ReplicaId,
        reason: str,
        now: float,
        *,
        timed_out: bool = False,
        exhausted: Exhaustion | None = None,
        peak: Mapping[DeviceId, int] = _NOTHING,
    ) -> list[Command]:
        """A child is gone, asked to or not; its leases are gone with it.

        Args:
            timed_out: it was too slow to load.
            exhausted: it ran out of this memory.
            peak: the most that it ever held.
        """
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state in (ReplicaState.RECLAIMING, ReplicaState.GONE):
            return []
        before = replica.state
        replica.to(ReplicaState.RECLAIMING, now)
        self._ledger.observe_peak(replica_id, peak)
        self._grants.forget(replica)
        if not self._closing:
            self._setbacks.exited(replica, before, reason, now, timed_out=timed_out, exhausted=exhausted)
        self._appetite.ended(replica)
        if exhausted is not None and before in (ReplicaState.READY, ReplicaState.DRAINING):
            self._appetite.ran_out(replica, exhausted)
        self._out.touch(self._models[replica.model])
        self._wake(now)
        return self._out.flush()

    def replica_reclaimed(
        self, replica_id: ReplicaId, now: float, *, readings: Iterable[DeviceReading]
    ) -> list[Command]:
        """A dead replica's memory is free again, or nobody waits for that any longer.

        Its booking goes together with readings taken since: older ones would still count the dead child as using it.
        """
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state is not ReplicaState.RECLAIMING:
            return []
        self._ledger.observe_devices(readings)
        self._fleet.remove(replica, now)
        return self._conclude(now)

    def memory_observed(
        self,
        readings: Iterable[DeviceReading],
        usage: Mapping[ReplicaId, Mapping[DeviceId, int]],
        now: float,
        *,
        peaks: Mapping[ReplicaId, Mapping[DeviceId, int]] = _NOTHING,
    ) -> list[Command]:
        """What the devices show, what each replica's processes hold, and the most that they ever held."""
        self._ledger.observe_devices(readings)
        for replica_id, held in usage.items():
            if replica_id in self._replicas:
                self._appetite.observed(self._replicas[replica_id], held, peaks.get(replica_id, _NOTHING))
                self._recycle(self._replicas[replica_id], now)
        self._replan(now)
        return self._out.flush()

    # -- operators ---------------------------------------------------------------------------------------------------

    def load(self, name: str, now: float, *, evict: bool = True) -> list[Command]:
        """Bring a model into memory though nobody waits; `evict` lets idle ones make room. A FAILED one stays so."""
        model = self._models[name]
        model.ejected = False
        if model.health is Health.BACKOFF:
            self._recover(model)
        draining = [replica for replica in model.replicas if replica.may_stay]
        if model.staying:
            pass  # it is there, or on its way
        elif draining:
            self._moves.revive(draining[0], now)
        else:
            model.want = max(model.want, Want.OPERATOR if evict else Want.PRELOAD)
            if model.health is Health.AVAILABLE:
                model.reason = ""
        return self._conclude(now)

    def eject(self, name: str, now: float, *, force: bool) -> list[Command]:
        """Unload a model: leases run to their end first, unless `force`, which also turns its waiters away."""
        model = self._models[name]
        model.want, model.ejected = Want.NO, True
        if force:
            self._grants.turn_away(model, RejectCode.EJECTED, f"Model '{name}' was ejected by an operator.", 1.0)
        for replica in list(model.replicas):
            if force and replica.state in (ReplicaState.READY, ReplicaState.DRAINING):
                replica.reason = "ejected"
                self._fleet.stop(replica, now, force=True)
            else:
                self._fleet.let_go(replica, "ejected", now)
        return self._conclude(now)

    def reset(self, name: str, now: float) -> list[Command]:
        """Forget a model's failures."""
        model = self._models[name]
        model.failures.clear()
        model.setbacks.clear()
        model.grows_at = -math.inf
        model.lower()
        model.misfit = False
        if model.health is not Health.AVAILABLE:
            self._recover(model)
        return self._conclude(now)

    def configure(
        self, policy: Policy, models: Iterable[ModelSpec], now: float, *, changed: Collection[str] = ()
    ) -> list[Command]:
        """Go by another configuration from now on; what it does not touch goes on as it was.

        Args:
            changed: models whose present replicas are of no use any more: these run to the end of their leases, and
                are replaced.
        """
        self._roster.adopt(policy, models, changed, now)
        return self._conclude(now)

    def close(self, now: float) -> list[Command]:
        """Take no new work; every replica goes as soon as its leases are over."""
        self._closing = True
        for model in self._models.values():
            model.want = Want.NO
            self._grants.turn_away(model, RejectCode.SHUTTING_DOWN, SHUTTING_DOWN, RETRY_ELSEWHERE)
            for replica in list(model.replicas):
                self._fleet.let_go(replica, "shutting down", now)
        return self._out.flush()

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """Time has passed: deadlines, back-offs, idle models."""
        for model, ticket in self._grants.expired(now):
            self._out.add(timed_out(self._state, model, ticket, now))
            self._out.touch(model)
            self._grants.serve(model, now)
        for model in self._models.values():
            while (idle := next_idle(model))[0] <= now and idle[1] is not None:
                self._fleet.let_go(idle[1], "idle", now)
            if model.health is Health.BACKOFF and model.retry_deadline() <= now:
                self._recover(model)
        return self._conclude(now)

    def view(self, name: str, now: float) -> ModelView:
        return model_view(self._state, self._models[name], now)

    def views(self, names: Iterable[str], now: float) -> tuple[ModelView, ...]:
        """Several models at one moment, which costs less than one by one."""
        state, outlook = self._state, Outlook(self._state, now)
        return tuple(model_view(state, state.models[name], now, outlook) for name in names)

    def former(self) -> tuple[str, ...]:
        """Models that are not configured any more and still hold memory."""
        return tuple(name for name, model in self._models.items() if model.retired and model.replicas)

    def place(self, ticket: TicketId, now: float) -> LinePlace | None:
        """Where a waiter stands in its model's line; None when it does not wait. Looks at the whole line."""
        found = self._grants.find(ticket)
        if found is None:
            return None
        model = self._models[found.model]
        before = model.queue.before(ticket)
        wait = Outlook(self._state, now).wait(model, model.queue.width_of(before))
        return LinePlace(len(before), wait, obstacle(self._state, model), shortage(self._state, model))

    def troubles(
        self, patience: Patience, held: Mapping[ReplicaId, Collection[LeaseId]], now: float
    ) -> tuple[str, ...]:
        """What stands still though it should not, see `core.liveness`; empty when all is well."""
        return tuple(troubles(self._state, self._grants.first_deadline(), patience, held, now))

    def devices(self) -> tuple[DeviceView, ...]:
        return self._ledger.views()

    @property
    def replicas(self) -> Mapping[ReplicaId, Replica]:
        """Replicas that still hold a booking."""
        return self._replicas

    # -- what follows ------------------------------------------------------------------------------------------------

    def _replan(self, now: float) -> None:
        self._next_claim = math.inf if self._closing else self._moves.replan(now)

    def _recover(self, model: Model) -> None:
        model.recover()
        self._out.touch(model)

    def _recycle(self, replica: Replica, now: float) -> None:
        """Start an idle replica anew if it holds more RAM than it may."""
        held = outsized(self._state, replica, now)
        if held is None:
            return
        self._out.add(Recycled(replica.model, held))
        self._fleet.let_go(replica, "is started anew, as it held more RAM than max_rss_mb", now)
        model = self._models[replica.model]
        if not model.staying:  # others of it are enough until they are not
            model.want = max(model.want, Want.RESTART)

    def _wake(self, now: float) -> None:
        first = self._grants.first_deadline()
        at = math.inf if first is None else first
        for model in self._models.values():
            at = min(at, next_idle(model)[0], model.retry_deadline())
        if at != math.inf:
            self._out.add(WakeAt(max(at, now)))

    def _conclude(self, now: float) -> list[Command]:
        """Plan anew, ask to be woken in time, and hand out what has to be done."""
        self._replan(now)
        self._wake(now)
        return self._out.flush()
