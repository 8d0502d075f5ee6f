"""The scheduler: one synchronous state machine, events in, commands out.

Every event brings its time; what has to be done comes back in order. The engine alone calls it and carries this out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from router.core.admission import RETRY_ELSEWHERE, SHUTTING_DOWN, refusal, timed_out
from router.core.appetite import Appetite
from router.core.fleet import Fleet
from router.core.ledger import Ledger
from router.core.lifecycle import LEAVING, Health, ReplicaState
from router.core.outbox import Outbox
from router.core.plan import plan
from router.core.queue import LazyHeap
from router.core.records import Model, Replica, State, Want
from router.core.types import (
    Command,
    Device,
    DeviceId,
    DeviceReading,
    DeviceView,
    Evicted,
    Exhaustion,
    Grant,
    LeaseId,
    ModelSpec,
    ModelView,
    Policy,
    Reject,
    RejectCode,
    ReplicaId,
    Ticket,
    TicketId,
    WakeAt,
)
from router.core.view import model_view

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Scheduler:
    """Owns the queues, the replicas' states and the ledger."""

    def __init__(self, policy: Policy, models: Iterable[ModelSpec], devices: Iterable[Device]) -> None:
        self._policy = policy
        self._state = State(policy, Ledger(devices), {spec.name: Model.of(spec, policy) for spec in models})
        self._models = self._state.models
        self._replicas = self._state.replicas
        self._ledger = self._state.ledger
        self._leases: dict[LeaseId, Replica] = {}
        self._expiries: LazyHeap[Ticket] = LazyHeap()
        self._lease_ids = 0
        self._closing = False
        self._out = Outbox()
        self._fleet = Fleet(self._state, self._out)
        self._appetite = Appetite(self._state, self._out, self._fleet)

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> list[Command]:
        """A request asks for a slot: it is granted, queued or rejected."""
        model = self._models[ticket.model]
        replica = model.replica
        if replica is not None and replica.has_free_slot and not model.queue and not self._closing:
            self._grant(replica, ticket, now)
            return self._out.flush()
        refused = refusal(model, ticket, self._policy, now, closing=self._closing)
        if refused is not None:
            self._out.add(refused)
            return self._out.flush()
        if model.health is not Health.AVAILABLE:
            self._recover(model)
        model.queue.push(ticket)
        self._expiries.push(ticket.deadline, ticket.id, ticket)
        if model.is_hungry:
            self._out.touch(model)
            self._replan(now)
        self._wake(now)
        return self._out.flush()

    def cancel(self, ticket: TicketId, now: float) -> list[Command]:
        """A waiter has gone."""
        found = self._expiries.discard(ticket)
        if found is not None:
            model = self._models[found.model]
            model.queue.discard(ticket)
            if not model.queue:
                self._out.touch(model)
                self._replan(now)
        return self._out.flush()

    def end(self, lease: LeaseId, now: float) -> list[Command]:
        """A lease is over and its slot is idle; unknown leases (of dead replicas) are ignored."""
        replica = self._leases.pop(lease, None)
        if replica is None:
            return []
        replica.leases.discard(lease)
        model = self._models[replica.model]
        replica.last_used = model.last_used = now
        if model.queue:
            self._serve(model, now)
        if replica.state is ReplicaState.DRAINING and not replica.leases:
            self._fleet.stop(replica, force=False)
        elif model.is_idle or self._state.somebody_is_overdue(now):
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
        replica.to(ReplicaState.READY)
        replica.cut = cut
        replica.ready = replica.last_used = now
        replica.slots = slots
        model = self._models[replica.model]
        model.want = Want.NO
        model.reason = ""
        if replica.started is not None:
            model.load_seconds = now - replica.started
        self._appetite.loaded(replica)
        self._out.touch(model)
        self._serve(model, now)
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
        replica.to(ReplicaState.RECLAIMING)
        self._ledger.observe_peak(replica_id, peak)
        for lease in replica.leases:
            self._leases.pop(lease, None)
        replica.leases.clear()
        model = self._models[replica.model]
        if not self._closing:
            if before is ReplicaState.STARTING:
                if exhausted is None or not self._appetite.raise_after(replica, exhausted, reason):
                    self._load_failed(model, reason, now, timed_out=timed_out)
            elif before is ReplicaState.READY:
                self._crashed(model, replica, reason, now)
        self._appetite.ended(replica)
        self._out.touch(model)
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
        self._fleet.remove(replica)
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
        self._replan(now)
        return self._out.flush()

    # -- operators ---------------------------------------------------------------------------------------------------

    def load(self, name: str, now: float, *, evict: bool = True) -> list[Command]:
        """Bring a model into memory though nobody waits; `evict` lets idle ones make room. A FAILED one stays so."""
        model, replica = self._models[name], self._models[name].replica
        if model.health is Health.BACKOFF:
            self._recover(model)
        if replica is not None and replica.state is ReplicaState.DRAINING and replica.makes_room_for is None:
            self._revive(replica, now)
        elif replica is None or replica.state in LEAVING:
            model.want = max(model.want, Want.OPERATOR if evict else Want.PRELOAD)
            if model.health is Health.AVAILABLE:
                model.reason = ""
        return self._conclude(now)

    def eject(self, name: str, now: float, *, force: bool) -> list[Command]:
        """Unload a model: leases run to their end first, unless `force`, which also turns its waiters away."""
        model = self._models[name]
        model.want = Want.NO
        if force:
            self._reject_waiters(model, RejectCode.EJECTED, f"Model '{name}' was ejected by an operator.", 1.0)
        replica = model.replica
        if replica is not None:
            if force and replica.state in (ReplicaState.READY, ReplicaState.DRAINING):
                replica.reason = "ejected"
                self._fleet.stop(replica, force=True)
            else:
                self._fleet.let_go(replica, "ejected")
        return self._conclude(now)

    def reset(self, name: str, now: float) -> list[Command]:
        """Forget a model's failures."""
        model = self._models[name]
        model.failures.clear()
        model.lower()
        if model.health is not Health.AVAILABLE:
            self._recover(model)
        return self._conclude(now)

    def close(self) -> list[Command]:
        """Take no new work; every replica goes as soon as its leases are over."""
        self._closing = True
        for model in self._models.values():
            model.want = Want.NO
            self._reject_waiters(model, RejectCode.SHUTTING_DOWN, SHUTTING_DOWN, RETRY_ELSEWHERE)
            if model.replica is not None:
                self._fleet.let_go(model.replica, "shutting down")
        return self._out.flush()

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """Time has passed: deadlines, back-offs, idle models."""
        while (head := self._expiries.peek()) is not None and head[0] <= now:
            self._expire(head[1], now)
        for model in self._models.values():
            if model.idle_deadline() <= now and model.replica is not None:
                self._fleet.let_go(model.replica, "idle")
            if model.health is Health.BACKOFF and model.retry_deadline() <= now:
                self._recover(model)
        return self._conclude(now)

    def view(self, name: str, now: float) -> ModelView:
        return model_view(self._models[name], self._ledger, now)

    def devices(self) -> tuple[DeviceView, ...]:
        return self._ledger.views()

    @property
    def replicas(self) -> Mapping[ReplicaId, Replica]:
        """Replicas that still hold a booking."""
        return self._replicas

    def _serve(self, model: Model, now: float) -> None:
        replica = model.replica
        while replica is not None and replica.has_free_slot:
            ticket = model.queue.pop()
            if ticket is None:
                return
            self._expiries.discard(ticket.id)
            self._grant(replica, ticket, now)

    def _grant(self, replica: Replica, ticket: Ticket, now: float) -> None:
        self._lease_ids += 1
        lease = self._lease_ids
        replica.leases.add(lease)
        replica.last_used = now
        self._models[replica.model].last_used = now
        self._leases[lease] = replica
        self._out.add(Grant(ticket.id, lease, replica.id, replica.model))

    def _expire(self, ticket: Ticket, now: float) -> None:
        model = self._models[ticket.model]
        self._expiries.discard(ticket.id)
        model.queue.discard(ticket.id)
        self._out.add(timed_out(model, ticket, now))
        self._out.touch(model)

    def _reject_waiters(self, model: Model, code: RejectCode, message: str, retry_after: float | None = None) -> None:
        while (ticket := model.queue.pop()) is not None:
            self._expiries.discard(ticket.id)
            self._out.add(Reject(ticket.id, model.spec.name, code, message, retry_after))

    # -- decisions on replicas ---------------------------------------------------------------------------------------

    def _replan(self, now: float) -> None:
        if self._closing or not self._state.has_open_questions():
            return
        self._fleet.drop_unwanted()
        decided = plan(self._state, now)
        for replica in decided.revived:
            self._revive(replica, now)
        for model, message in decided.impossible:
            model.lower()
            model.want, model.reason = Want.NO, f"cannot fit: {message}"
            self._reject_waiters(model, RejectCode.TOO_LARGE, f"Model '{model.spec.name}' {model.reason}")
            self._out.touch(model)
        for model in decided.dropped:
            model.want, model.reason = Want.NO, "was not loaded: there was no room without evicting another"
            self._out.touch(model)
        for model, placement in decided.reservations:
            self._fleet.reserve(model, placement, now)
        for replica, for_model in decided.victims:
            self._out.add(Evicted(replica.model, for_model))
            replica.makes_room_for = for_model
            self._fleet.let_go(replica, f"makes room for {for_model}")
        if decided.wake is not None:
            self._out.add(WakeAt(decided.wake))
        self._fleet.start_reserved(now)

    def _revive(self, replica: Replica, now: float) -> None:
        self._fleet.revive(replica)
        self._serve(self._models[replica.model], now)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _load_failed(self, model: Model, reason: str, now: float, *, timed_out: bool) -> None:
        if model.want is not Want.RESTART:
            model.want = Want.NO  # whoever wanted it has been told
        model.lower()
        model.note_failure(f"failed to load: {reason}", now)
        code, retry_after = RejectCode.LOAD_FAILED, None
        if timed_out and model.retry_at is not None:
            code, retry_after = RejectCode.BACKING_OFF, model.retry_at - now
        self._reject_waiters(model, code, f"Model '{model.spec.name}' {model.reason}", retry_after)

    def _crashed(self, model: Model, replica: Replica, reason: str, now: float) -> None:
        model.restarts += 1
        model.want = max(model.want, Want.RESTART)
        if replica.ready is not None and now - replica.ready >= self._policy.restart_grace:
            model.reason = f"restarts after a crash: {reason}"
            return
        model.note_failure(f"crashed: {reason}", now)
        if model.health is Health.FAILED:
            self._reject_waiters(model, RejectCode.FAILED, f"Model '{model.spec.name}' {model.reason}")

    def _recover(self, model: Model) -> None:
        model.recover()
        self._out.touch(model)

    # -- time --------------------------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        head = self._expiries.peek()
        at = math.inf if head is None else head[0]
        for model in self._models.values():
            at = min(at, model.idle_deadline(), model.retry_deadline())
        if at != math.inf:
            self._out.add(WakeAt(max(at, now)))

    def _conclude(self, now: float) -> list[Command]:
        """Plan anew, ask to be woken in time, and hand out what has to be done."""
        self._replan(now)
        self._wake(now)
        return self._out.flush()
