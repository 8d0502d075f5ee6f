"""The scheduler: one synchronous state machine, events in, commands out.

Every event brings its time; what has to be done comes back in order. The engine alone calls it and carries this out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from router.core.admission import RETRY_ELSEWHERE, SHUTTING_DOWN, refusal, timed_out
from router.core.learning import observed_need
from router.core.ledger import Ledger
from router.core.lifecycle import Health, ReplicaState
from router.core.plan import plan, startable
from router.core.queue import LazyHeap
from router.core.records import Model, Replica, State, Want
from router.core.types import (
    Changed,
    Command,
    Device,
    DeviceId,
    DeviceReading,
    DeviceView,
    Evicted,
    Grant,
    LeaseId,
    ModelSpec,
    ModelView,
    Placement,
    Policy,
    Reject,
    RejectCode,
    ReplicaId,
    Start,
    Stop,
    Ticket,
    TicketId,
    WakeAt,
)
from router.core.view import model_view


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
        self._replica_ids = 0
        self._lease_ids = 0
        self._closing = False
        self._out: list[Command] = []
        self._changed: dict[str, None] = {}

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> list[Command]:
        """A request asks for a slot: it is granted, queued or rejected."""
        model = self._models[ticket.model]
        replica = model.replica
        if replica is not None and replica.has_free_slot and not model.queue and not self._closing:
            self._grant(replica, ticket, now)
            return self._flush()
        refused = refusal(model, ticket, self._policy, now, closing=self._closing)
        if refused is not None:
            self._out.append(refused)
            return self._flush()
        if model.health is not Health.AVAILABLE:
            self._recover(model)
        model.queue.push(ticket)
        self._expiries.push(ticket.deadline, ticket.id, ticket)
        if model.is_hungry:
            self._replan(now)
        self._wake(now)
        return self._flush()

    def cancel(self, ticket: TicketId, now: float) -> list[Command]:
        """A waiter has gone."""
        found = self._expiries.discard(ticket)
        if found is not None:
            model = self._models[found.model]
            model.queue.discard(ticket)
            if not model.queue:
                self._replan(now)
        return self._flush()

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
        if not replica.leases:
            if replica.state is ReplicaState.DRAINING:
                self._stop(replica, force=False)
            elif not model.queue:
                self._replan(now)
                self._wake(now)
        return self._flush()

    # -- replicas ----------------------------------------------------------------------------------------------------

    def replica_ready(self, replica_id: ReplicaId, slots: int, now: float) -> list[Command]:
        """A child serves. Its waiters are granted before anything else is decided."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state is not ReplicaState.STARTING:
            return []
        replica.to(ReplicaState.READY)
        replica.ready = replica.last_used = now
        replica.slots = slots
        model = self._models[replica.model]
        model.want = Want.NO
        model.reason = ""
        self._ledger.settle(replica_id)
        self._learn(model, replica)
        self._touch(model)
        self._serve(model, now)
        return self._conclude(now)

    def replica_exited(
        self, replica_id: ReplicaId, reason: str, now: float, *, timed_out: bool = False
    ) -> list[Command]:
        """A child is gone, asked to or not; its leases are gone with it. `timed_out`: it was too slow to load."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state in (ReplicaState.RECLAIMING, ReplicaState.GONE):
            return []
        before = replica.state
        replica.to(ReplicaState.RECLAIMING)
        for lease in replica.leases:
            self._leases.pop(lease, None)
        replica.leases.clear()
        model = self._models[replica.model]
        if not self._closing:
            if before is ReplicaState.STARTING:
                self._load_failed(model, reason, now, timed_out=timed_out)
            elif before is ReplicaState.READY:
                self._crashed(model, replica, reason, now)
        self._learn(model, replica)
        self._touch(model)
        self._wake(now)
        return self._flush()

    def replica_reclaimed(self, replica_id: ReplicaId, now: float) -> list[Command]:
        """A dead replica's memory is free again, or nobody waits for that any longer."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state is not ReplicaState.RECLAIMING:
            return []
        self._remove(replica)
        return self._conclude(now)

    def memory_observed(
        self, readings: Iterable[DeviceReading], usage: Mapping[ReplicaId, Mapping[DeviceId, int]], now: float
    ) -> list[Command]:
        """What the devices show, and what each replica's processes hold."""
        self._ledger.observe_devices(readings)
        for replica_id, held in usage.items():
            self._ledger.observe_replica(replica_id, held)
        if any(model.is_hungry for model in self._models.values()):
            self._replan(now)
        return self._flush()

    # -- operators ---------------------------------------------------------------------------------------------------

    def load(self, name: str, now: float, *, evict: bool = True) -> list[Command]:
        """Bring a model into memory though nobody waits; `evict` lets idle ones make room. A FAILED one stays so."""
        model = self._models[name]
        if model.health is Health.BACKOFF:
            self._recover(model)
        if model.replica is None or model.replica.state in (ReplicaState.STOPPING, ReplicaState.RECLAIMING):
            model.want = max(model.want, Want.EVICT_IDLE if evict else Want.IF_ROOM)
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
                self._stop(replica, force=True)
            else:
                self._let_go(replica, "ejected")
        self._wake(now)
        return self._flush()

    def reset(self, name: str, now: float) -> list[Command]:
        """Forget a model's failures."""
        model = self._models[name]
        model.failures.clear()
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
                self._let_go(model.replica, "shutting down")
        return self._flush()

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """Time has passed: deadlines, back-offs, idle models."""
        while (head := self._expiries.peek()) is not None and head[0] <= now:
            self._expire(head[1], now)
        for model in self._models.values():
            if model.idle_deadline() <= now and model.replica is not None:
                self._let_go(model.replica, "idle")
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

    # -- decisions on requests ---------------------------------------------------------------------------------------

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
        self._out.append(Grant(ticket.id, lease, replica.id, replica.model))

    def _expire(self, ticket: Ticket, now: float) -> None:
        model = self._models[ticket.model]
        self._expiries.discard(ticket.id)
        model.queue.discard(ticket.id)
        self._out.append(timed_out(model, ticket, now))

    def _reject_waiters(self, model: Model, code: RejectCode, message: str, retry_after: float | None = None) -> None:
        while (ticket := model.queue.pop()) is not None:
            self._expiries.discard(ticket.id)
            self._out.append(Reject(ticket.id, model.spec.name, code, message, retry_after))

    # -- decisions on replicas ---------------------------------------------------------------------------------------

    def _replan(self, now: float) -> None:
        if self._closing or not self._state.has_open_questions():
            return
        decided = plan(self._state, now)
        for replica in decided.revived:
            replica.to(ReplicaState.READY)
            replica.reason, replica.makes_room_for = "", None
            self._touch(self._models[replica.model])
            self._serve(self._models[replica.model], now)
        for model, message in decided.impossible:
            model.want, model.reason = Want.NO, f"cannot fit: {message}"
            self._reject_waiters(model, RejectCode.TOO_LARGE, f"Model '{model.spec.name}' {model.reason}")
        for model in decided.dropped:
            model.want, model.reason = Want.NO, "was not loaded: there was no room without evicting another"
        for model, placement in decided.reservations:
            self._reserve(model, placement, now)
        for replica, for_model in decided.victims:
            self._out.append(Evicted(replica.model, for_model))
            replica.makes_room_for = for_model
            self._let_go(replica, f"makes room for {for_model}")
        if decided.wake is not None:
            self._out.append(WakeAt(decided.wake))
        self._start_reserved(now)

    def _reserve(self, model: Model, placement: Placement, now: float) -> None:
        self._replica_ids += 1
        replica = Replica(self._replica_ids, model.spec.name, placement, model.spec.slots, created=now)
        self._replicas[replica.id] = replica
        self._ledger.book(replica.id, placement)
        model.replica, model.reason = replica, ""
        self._touch(model)

    def _start_reserved(self, now: float) -> None:
        chosen, wake = startable(self._state, now)
        for replica in chosen:
            replica.to(ReplicaState.STARTING)
            replica.started = now
            self._out.append(Start(replica.id, replica.model, replica.placement))
        if wake is not None:
            self._out.append(WakeAt(wake))

    def _let_go(self, replica: Replica, reason: str) -> None:
        """Lead a replica out of memory by the gentlest way its state allows."""
        replica.reason = reason
        if replica.state is ReplicaState.RESERVED:
            self._remove(replica)
        elif replica.state is ReplicaState.STARTING:
            self._stop(replica, force=True)
        elif replica.state is ReplicaState.READY:
            replica.to(ReplicaState.DRAINING)
            self._touch(self._models[replica.model])
            if not replica.leases:
                self._stop(replica, force=False)
        elif replica.state is ReplicaState.DRAINING:
            replica.makes_room_for = None  # whoever asked now does not want it back

    def _stop(self, replica: Replica, *, force: bool) -> None:
        replica.to(ReplicaState.STOPPING)
        self._touch(self._models[replica.model])
        self._out.append(Stop(replica.id, replica.model, force, replica.reason))

    def _remove(self, replica: Replica) -> None:
        replica.to(ReplicaState.GONE)
        del self._replicas[replica.id]
        self._ledger.release(replica.id)
        model = self._models[replica.model]
        model.replica = None
        self._touch(model)

    def _learn(self, model: Model, replica: Replica) -> None:
        if replica.ready is not None:
            model.need = observed_need(model.need, self._ledger.peak(replica.id), model.spec.need.reserve)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _load_failed(self, model: Model, reason: str, now: float, *, timed_out: bool) -> None:
        model.note_failure(f"failed to load: {reason}", now)
        code, retry_after = RejectCode.LOAD_FAILED, None
        if timed_out and model.retry_at is not None:
            code, retry_after = RejectCode.BACKING_OFF, model.retry_at - now
        self._reject_waiters(model, code, f"Model '{model.spec.name}' {model.reason}", retry_after)

    def _crashed(self, model: Model, replica: Replica, reason: str, now: float) -> None:
        model.restarts += 1
        model.want = max(model.want, Want.IF_ROOM)
        if replica.ready is not None and now - replica.ready >= self._policy.restart_grace:
            model.reason = f"restarts after a crash: {reason}"
            return
        model.note_failure(f"crashed: {reason}", now)
        if model.health is Health.FAILED:
            self._reject_waiters(model, RejectCode.FAILED, f"Model '{model.spec.name}' {model.reason}")

    def _recover(self, model: Model) -> None:
        model.recover()
        self._touch(model)

    # -- time --------------------------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        head = self._expiries.peek()
        at = math.inf if head is None else head[0]
        for model in self._models.values():
            at = min(at, model.idle_deadline(), model.retry_deadline())
        if at != math.inf:
            self._out.append(WakeAt(max(at, now)))

    def _touch(self, model: Model) -> None:
        self._changed[model.spec.name] = None

    def _conclude(self, now: float) -> list[Command]:
        """Plan anew, ask to be woken in time, and hand out what has to be done."""
        self._replan(now)
        self._wake(now)
        return self._flush()

    def _flush(self) -> list[Command]:
        out = self._out
        if self._changed:
            out.extend(Changed(name) for name in self._changed)
            self._changed = {}
        self._out = []
        return out
