"""What the scheduler remembers of models and replicas: mutable, and written by the scheduler alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

from router.core.failures import FailureRecord
from router.core.ledger import Ledger
from router.core.lifecycle import (
    HEALTH_TRANSITIONS,
    LEAVING,
    REPLICA_TRANSITIONS,
    Health,
    ReplicaState,
    outward,
    step,
)
from router.core.queue import TicketQueue
from router.core.types import LeaseId, ModelSpec, Need, Placement, Policy, ReplicaId, Status


class Want(IntEnum):
    """How much a model is wanted in memory though nobody waits for it."""

    NO = 0
    PRELOAD = 1  # at the start, if there is room
    RESTART = 2  # after a crash, if there is room; tried again until the model is given up
    OPERATOR = 3  # asked for: idle ones make room


@dataclass(slots=True)
class Replica:
    """One incarnation of a model.

    Attributes:
        allocated: its load has all the memory that it takes.
        cut: what llama.cpp has left out to make it fit, in words.
    """

    id: ReplicaId
    model: str
    placement: Placement
    slots: int
    created: float
    state: ReplicaState = ReplicaState.RESERVED
    leases: set[LeaseId] = field(default_factory=set)
    started: float | None = None
    ready: float | None = None
    last_used: float = 0.0
    reason: str = ""
    makes_room_for: str | None = None
    allocated: bool = False
    cut: str = ""

    def to(self, state: ReplicaState) -> None:
        self.state = step(REPLICA_TRANSITIONS, self.state, state)

    @property
    def has_worked(self) -> bool:
        """Whether it has had a lease, so that what it is seen to hold is what it holds at work."""
        return self.ready is not None and self.last_used > self.ready

    @property
    def has_free_slot(self) -> bool:
        return self.state is ReplicaState.READY and len(self.leases) < self.slots


@dataclass(slots=True)
class Model:
    """One configured model.

    Attributes:
        lower_need: what was thought that it takes, while it is tried with more after it ran out of memory.
    """

    spec: ModelSpec
    queue: TicketQueue
    failures: FailureRecord
    need: Need
    replica: Replica | None = None
    health: Health = Health.AVAILABLE
    want: Want = Want.NO
    reason: str = ""
    retry_at: float | None = None
    last_used: float | None = None
    restarts: int = 0
    load_seconds: float | None = None
    lower_need: Need | None = None

    @classmethod
    def of(cls, spec: ModelSpec, policy: Policy) -> Model:
        queue, failures = TicketQueue(policy.priority_offsets), FailureRecord(policy)
        return cls(spec, queue, failures, spec.need, load_seconds=spec.load_seconds)

    def raise_need(self, need: Need) -> None:
        """Try it with more; `lower` takes that back."""
        self.lower_need, self.need = self.need, need

    def lower(self) -> None:
        """More memory did not help: what was thought before stands."""
        if self.lower_need is not None:
            self.need, self.lower_need = self.lower_need, None

    def to(self, health: Health) -> None:
        self.health = step(HEALTH_TRANSITIONS, self.health, health)

    @property
    def status(self) -> Status:
        if self.is_hungry:
            return Status.LOADING  # it waits for room
        return outward(None if self.replica is None else self.replica.state, self.health)

    @property
    def is_hungry(self) -> bool:
        """It should be in memory and is not even on its way."""
        wanted = bool(self.queue) or self.want is not Want.NO
        return self.replica is None and self.health is Health.AVAILABLE and wanted

    @property
    def is_idle(self) -> bool:
        """It is in memory and nobody would miss it now."""
        replica = self.replica
        return replica is not None and replica.state is ReplicaState.READY and not replica.leases and not self.queue

    def note_failure(self, reason: str, now: float) -> None:
        """Count a failure: back off, or give the model up until a reset."""
        self.reason = reason
        self.retry_at = self.failures.note(now)
        if self.retry_at is None:
            self.to(Health.FAILED)
            self.want = Want.NO
        else:
            self.to(Health.BACKOFF)

    def recover(self) -> None:
        """It may be tried again."""
        self.to(Health.AVAILABLE)
        self.retry_at = None
        self.reason = ""

    def idle_deadline(self) -> float:
        """When it will have been idle for too long; infinite when it is not idle or may idle for ever."""
        if self.spec.idle_timeout is None or self.replica is None or not self.is_idle:
            return math.inf
        return self.replica.last_used + self.spec.idle_timeout

    def retry_deadline(self) -> float:
        """When it is tried again by itself after a failure; a model nobody wants stays as it is."""
        if self.health is not Health.BACKOFF or self.retry_at is None or not (self.queue or self.want):
            return math.inf
        return self.retry_at

    def urgency(self) -> float:
        """Virtual deadline of its first waiter; infinite when nobody waits."""
        key = self.queue.head_key()
        return math.inf if key is None else key


@dataclass(slots=True)
class State:
    """Everything that a scheduling decision may look at."""

    policy: Policy
    ledger: Ledger
    models: dict[str, Model]
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict)

    def has_open_questions(self) -> bool:
        """Whether planning could change anything: somebody wants memory, or a place in it is on the move."""
        if any(model.is_hungry for model in self.models.values()):
            return True
        return any(
            replica.state is ReplicaState.RESERVED or replica.makes_room_for is not None
            for replica in self.replicas.values()
        )

    def load_lock(self, model: str) -> float:
        """Seconds for which a load of this model may keep others off its GPUs."""
        known = self.models[model].load_seconds
        return self.policy.load_lock if known is None else 2 * known

    def is_making_room(self, model: Model) -> bool:
        """Whether others are on their way out of memory for this one."""
        name = model.spec.name
        return any(replica.makes_room_for == name and replica.state in LEAVING for replica in self.replicas.values())

    def somebody_is_overdue(self, now: float) -> bool:
        """Whether a model without a replica has a waiter whose virtual deadline has passed."""
        return any(model.is_hungry and model.urgency() <= now for model in self.models.values())
