"""What the scheduler remembers of models and replicas: mutable, and written by the scheduler alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from router.core.affinity import Known
from router.core.experience import Average, Experience, Pace
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
from router.core.types import LeaseId, ModelSpec, Need, Placement, Policy, ReplicaId, Status, Ticket

_SHORTEST_RESIDENCY = 1.0
_LONGEST_RESIDENCY = 30.0
# Looking up a member takes its time, and each request does.
_READY = ReplicaState.READY
# A model with several replicas is what the furthest of them is.
_FURTHEST = {
    state: rank
    for rank, state in enumerate(
        (
            ReplicaState.READY,
            ReplicaState.STARTING,
            ReplicaState.RESERVED,
            ReplicaState.DRAINING,
            ReplicaState.STOPPING,
            ReplicaState.RECLAIMING,
        )
    )
}


class Want(IntEnum):
    """How much a model is wanted in memory though nobody waits for it."""

    NO = 0
    PRELOAD = 1  # at the start, if there is room
    RESTART = 2  # after a crash, if there is room; tried again until the model is given up
    OPERATOR = 3  # asked for: idle ones make room


class Run(NamedTuple):
    """A lease that runs: since its grant, on so many slots."""

    since: float
    width: int


@dataclass(slots=True, eq=False)
class Replica:
    """One incarnation of a model.

    Attributes:
        leases: what runs on it.
        busy: slots that they take together.
        allocated: its load has all the memory that it takes.
        cut: what llama.cpp has left out to make it fit, in words.
        known: the beginnings of prompts that it has read.
        stale: its model is configured otherwise by now, so that it will not be kept, and what it shows is no lesson.
        since: when it came into its state.
    """

    id: ReplicaId
    model: str
    placement: Placement
    slots: int
    created: float
    state: ReplicaState = ReplicaState.RESERVED
    leases: dict[LeaseId, Run] = field(default_factory=dict)
    busy: int = 0
    started: float | None = None
    ready: float | None = None
    last_used: float = 0.0
    reason: str = ""
    makes_room_for: str | None = None
    allocated: bool = False
    cut: str = ""
    known: Known = field(default_factory=Known)
    stale: bool = False
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.created

    def to(self, state: ReplicaState, now: float) -> None:
        self.state = step(REPLICA_TRANSITIONS, self.state, state)
        self.since = now

    @property
    def is_staying(self) -> bool:
        """It serves, or will."""
        return self.state not in LEAVING

    @property
    def is_coming(self) -> bool:
        return self.state is ReplicaState.STARTING or self.state is ReplicaState.RESERVED

    @property
    def has_worked(self) -> bool:
        """Whether it has had a lease, so that what it is seen to hold is what it holds at work."""
        return self.ready is not None and self.last_used > self.ready

    @property
    def may_stay(self) -> bool:
        """Whether it is on its way out for no reason but that nobody wanted it."""
        return self.state is ReplicaState.DRAINING and self.makes_room_for is None and not self.stale

    def has_room_for(self, ticket: Ticket) -> bool:
        """Whether it serves, and has the slots free that the ticket takes."""
        free = self.slots - self.busy
        return self.state is _READY and (ticket.width <= free or free == self.slots)


@dataclass(slots=True, eq=False)
class Model:
    """One configured model.

    Attributes:
        replicas: those that hold memory, the oldest first.
        abandoned: its last load was given up because nobody waited for it any more.
        promised: another makes room for it, or did.
        yielded: when it last made room for another while it had work.
        lower_need: what was thought that it takes, while it is tried with more after it ran out of memory.
        misfit: it was wanted last, and cannot fit.
        ejected: an operator wants none of it in memory until somebody asks for it.
        setbacks: failures of replicas beside others of the model.
        grows_at: before that no replica is loaded beside others.
        looks_at: before that a longer line is no reason to think about one more.
        retired: it is not configured any more; its name is kept for those who still ask about it.
    """

    spec: ModelSpec
    queue: TicketQueue
    failures: FailureRecord
    need: Need
    experience: Experience
    setbacks: FailureRecord
    replicas: list[Replica] = field(default_factory=list)
    health: Health = Health.AVAILABLE
    want: Want = Want.NO
    reason: str = ""
    retry_at: float | None = None
    last_used: float | None = None
    restarts: int = 0
    abandoned: bool = False
    promised: bool = False
    yielded: float = -math.inf
    lower_need: Need | None = None
    misfit: bool = False
    ejected: bool = False
    grows_at: float = -math.inf
    looks_at: float = -math.inf
    retired: bool = False

    @classmethod
    def of(cls, spec: ModelSpec, policy: Policy) -> Model:
        queue = TicketQueue(policy.priority_offsets, spec.slots)
        experience = Experience(spec.need.total, Average(spec.load_seconds))
        return cls(spec, queue, FailureRecord(policy), spec.need, experience, FailureRecord(policy))

    @property
    def leader(self) -> Replica | None:
        """The replica that is furthest, and of those the oldest."""
        replicas = self.replicas
        if len(replicas) < 2:
            return replicas[0] if replicas else None
        return min(replicas, key=lambda replica: _FURTHEST[replica.state])

    @property
    def staying(self) -> list[Replica]:
        """Replicas that serve, or will."""
        return [replica for replica in self.replicas if replica.state not in LEAVING]

    @property
    def serving(self) -> list[Replica]:
        """Replicas that take work."""
        return [replica for replica in self.replicas if replica.state is ReplicaState.READY]

    @property
    def slots(self) -> int:
        """Of all that take work; while none does, what one is expected to have."""
        return sum(replica.slots for replica in self.serving) or self.spec.slots

    @property
    def is_at_work(self) -> bool:
        for replica in self.replicas:  # noqa: SIM110  a generator for each request would take longer
            if replica.leases:
                return True
        return False

    @property
    def has_free_slots(self) -> bool:
        """Whether there is any use in asking who could have them."""
        for replica in self.replicas:  # noqa: SIM110  as above
            if replica.busy < replica.slots:
                return True
        return False

    def free_for(self, ticket: Ticket) -> Replica | None:
        """The replica that a ticket gets its slots from now; None when it has to wait.

        Of several with room the one that knows most of what is asked, then the least busy, then the oldest.
        """
        replicas = self.replicas
        if len(replicas) == 1:
            only = replicas[0]
            return only if only.has_room_for(ticket) else None
        free = [replica for replica in replicas if replica.has_room_for(ticket)]
        if len(free) < 2:
            return free[0] if free else None
        return max(free, key=lambda replica: (replica.known.depth(ticket.marks), replica.slots - replica.busy))

    def adopt(self, spec: ModelSpec, policy: Policy, *, anew: bool) -> None:
        """Be configured like this from now on; `anew`: what its replicas have shown so far does not count any more."""
        before, self.spec = self.spec, spec
        self.queue.adopt(policy.priority_offsets, spec.slots)
        self.failures.adopt(policy)
        self.setbacks.adopt(policy)
        self.looks_at = -math.inf
        if not anew:
            self.need = spec.need if self.need == before.need else self.need
            return
        self.need, self.lower_need = spec.need, None
        self.experience.begin_anew(spec.need.total, spec.load_seconds)
        self.forget_failures()

    def forget_failures(self) -> None:
        """It may be tried again, as if it had never failed."""
        if self.misfit:
            self.misfit, self.reason = False, ""
        self.failures.clear()
        self.setbacks.clear()
        self.grows_at = -math.inf
        if self.health is not Health.AVAILABLE:
            self.recover()

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
        if self.misfit and not self.replicas:
            return Status.FAILED
        leader = self.leader
        return outward(None if leader is None else leader.state, self.health)

    @property
    def is_hungry(self) -> bool:
        """It should be in memory and is not even on its way."""
        if self.replicas or self.health is not Health.AVAILABLE:
            return False
        return self.want is not Want.NO or bool(self.queue)

    def rests(self, replica: Replica) -> bool:
        """Whether a replica of this model is ready and nobody would miss it now."""
        return replica.state is _READY and not replica.leases and not self.queue

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

    def retry_deadline(self) -> float:
        """When it is tried again by itself after a failure; a model nobody wants stays as it is."""
        if self.health is not Health.BACKOFF or self.retry_at is None:
            return math.inf
        return self.retry_at if self.queue or self.want or (self.spec.min_replicas and not self.ejected) else math.inf

    def urgency(self) -> float:
        """When its claim to memory falls due; infinite when nobody waits.

        The virtual deadline of its first waiter, or when it last yielded with work, if that is later: whoever has had
        its turn stands behind those who have not, however old its own backlog.
        """
        key = self.queue.head_key()
        return math.inf if key is None else max(key, self.yielded)


@dataclass(slots=True)
class State:
    """Everything that a scheduling decision may look at.

    Attributes:
        rivals: for each model those that must not be in memory together with it.
        growing: the models that may have a replica for which nobody waits, or several.
    """

    policy: Policy
    ledger: Ledger
    models: dict[str, Model]
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict)
    rivals: dict[str, frozenset[str]] = field(init=False)
    growing: tuple[Model, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.survey()

    def survey(self) -> None:
        """To be called when other models are configured."""
        self.growing = tuple(
            model for model in self.models.values() if model.spec.min_replicas or model.spec.max_replicas > 1
        )
        excluded = {name: model.spec.exclusive_with for name, model in self.models.items()}
        self.rivals = {
            name: (own | {other for other, theirs in excluded.items() if name in theirs}) - {name}
            for name, own in excluded.items()
        }

    def pace(self) -> Pace:
        """How fast models load and serve, to be asked about several of them."""
        return Pace(model.experience for model in self.models.values())

    def load_seconds(self, model: Model) -> float:
        """How long this model's load takes: its own measure, else the mean of the others', else a guess."""
        own = model.experience.load.value
        return self.pace().load(model.experience) if own is None else own

    def service_seconds(self, model: Model) -> float:
        """How long a request keeps a slot of this model, known in the same ways."""
        own = model.experience.service.value
        return self.pace().service(model.experience) if own is None else own

    def residency(self, model: Model) -> float:
        """Seconds for which a replica of this model that has work is left alone after it became ready."""
        if self.policy.min_residency is not None:
            return self.policy.min_residency
        return min(_LONGEST_RESIDENCY, max(_SHORTEST_RESIDENCY, 2 * model.experience.load_seconds))

    def has_open_questions(self) -> bool:
        """Whether planning could change anything: somebody wants memory, or more, or a place in it is on the move."""
        if any(model.is_hungry for model in self.models.values()):
            return True
        for model in self.growing:
            few = model.spec.max_replicas if model.queue else model.spec.min_replicas
            if len(model.replicas) < few:
                return True
        return any(
            replica.state is ReplicaState.RESERVED or replica.makes_room_for is not None
            for replica in self.replicas.values()
        )

    def load_lock(self, model: str) -> float:
        """Seconds for which a load of this model may keep others off its GPUs."""
        known = self.models[model].experience.load.value
        return self.policy.load_lock if known is None else 2 * known

    def is_making_room(self, model: Model) -> bool:
        """Whether others are on their way out of memory for this one."""
        name = model.spec.name
        return any(replica.makes_room_for == name and replica.state in LEAVING for replica in self.replicas.values())

    def next_claim(self) -> float:
        """When the first claim of a model without a replica falls due, or fell; infinite when there is none."""
        return min((model.urgency() for model in self.models.values() if model.is_hungry), default=math.inf)
