"""The real scheduler under random events: what must hold after every one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.core.lifecycle import ReplicaState
from router.core.types import DeviceKind, DeviceReading, Exhaustion, Policy, Priority, ReplicaId
from tests.support.drive import GIB, Drive, cpu_model, gpu, gpu_model, host

MODELS = [
    cpu_model("a", 2, slots=2, idle_timeout=20),
    cpu_model("b", 5),
    gpu_model("c", 9),
    gpu_model("d", 10, slots=3),
    cpu_model("huge", 99),
    replace(cpu_model("pinned", 1), pinned=True, exclusive_with=frozenset("b")),
    replace(cpu_model("hot", 1, slots=2, idle_timeout=40), max_replicas=3),
    replace(gpu_model("kept", 3), min_replicas=2, max_replicas=2),
]
NAMES = [spec.name for spec in MODELS]
POLICY = Policy(max_models=2, max_queue=5)
MOST = {spec.name: spec.max_replicas for spec in MODELS}
names = st.sampled_from(NAMES)
# Taken by other processes all the time, on devices of which the models may have all.
OTHERS = {"host": 2 * GIB, "gpu:0": 5 * GIB, "gpu:1": 0}


class RouterMachine(RuleBasedStateMachine):
    # Why a pinned model may be stopped.
    WORDS = (
        "ejected",
        "nobody waits for it any more",
        "restarts with its new configuration",
        "has been removed from the configuration",
    )

    def __init__(self) -> None:
        super().__init__()
        self.drive = Drive(MODELS, devices=[host(8), gpu(0), gpu(1, 11)], policy=POLICY)
        self.asked: set[int] = set()
        self.left: set[int] = set()
        self.over: set[int] = set()
        self.observe()

    def holding(self) -> Mapping[int, Mapping[str, int]]:
        """What the children really hold: all that was expected of them, from the first moment to the last."""
        alive = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.STOPPING)
        replicas = self.drive.scheduler.replicas.values()
        return {replica.id: replica.placement.bytes for replica in replicas if replica.state in alive}

    def look(self) -> None:
        """Let the next event that brings readings bring those of now."""
        used = Counter(OTHERS)
        for held in self.holding().values():
            used.update(held)
        self.drive.readings = tuple(
            DeviceReading(view.device.id, view.total, used[view.device.id], view.total - used[view.device.id])
            for view in self.drive.scheduler.devices()
        )

    @rule()
    def observe(self) -> None:
        self.look()
        now = self.drive.now
        self.drive.take(self.drive.scheduler.memory_observed(self.drive.readings, self.holding(), now))

    @rule(
        model=names,
        priority=st.sampled_from(Priority),
        timeout=st.integers(1, 120),
        count=st.integers(1, 4),
        width=st.sampled_from((1, 1, 2, 3, 9)),
    )
    def ask(self, model: str, priority: Priority, timeout: int, count: int, width: int) -> None:
        for _ in range(count):
            self.asked.add(self.drive.ask(model, priority, width=width, timeout=timeout))

    def waiting(self) -> list[int]:
        return sorted(self.asked - set(self.drive.granted) - set(self.drive.rejected) - self.left)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if waiting := self.waiting():
            ticket = data.draw(st.sampled_from(waiting))
            self.left.add(ticket)
            self.drive.leave(ticket)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        running = sorted(set(self.drive.granted) - self.over)
        if running:
            ticket = data.draw(st.sampled_from(running))
            self.over.add(ticket)
            self.drive.end(ticket)

    @rule(data=st.data(), slots=st.integers(1, 4))
    def ready(self, data: st.DataObject, slots: int) -> None:
        if (replica := self.draw_in(data, ReplicaState.STARTING)) is not None:
            self.look()
            self.drive.usage = self.holding()[replica]
            self.drive.ready(replica=replica, slots=slots)

    @rule(data=st.data(), reclaim=st.booleans())
    def exit(self, data: st.DataObject, reclaim: bool) -> None:
        if (replica := self.draw_in(data, ReplicaState.STOPPING)) is not None:
            self.drive.exit(replica=replica, reclaim=False)
            if reclaim:
                self.look()
                self.drive.reclaim(replica)

    @rule(data=st.data(), reclaim=st.booleans(), short_of=st.sampled_from([None, *DeviceKind]))
    def crash(self, data: st.DataObject, reclaim: bool, short_of: DeviceKind | None) -> None:
        alive = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)
        if (replica := self.draw_in(data, *alive)) is not None:
            exhausted = None if short_of is None else Exhaustion(short_of)
            self.drive.exit(replica=replica, reclaim=False, exhausted=exhausted)
            if reclaim:
                self.look()
                self.drive.reclaim(replica)

    @rule(data=st.data())
    def allocated(self, data: st.DataObject) -> None:
        if (replica := self.draw_in(data, ReplicaState.STARTING)) is not None:
            self.drive.allocated(replica=replica)

    @rule(data=st.data())
    def reclaimed(self, data: st.DataObject) -> None:
        if (replica := self.draw_in(data, ReplicaState.RECLAIMING)) is not None:
            self.look()
            self.drive.reclaim(replica)

    @rule(model=names, evict=st.booleans())
    def load(self, model: str, evict: bool) -> None:
        self.drive.load(model, evict=evict)

    @rule(model=names, force=st.booleans())
    def eject(self, model: str, force: bool) -> None:
        self.drive.eject(model, force=force)

    @rule(model=names)
    def reset(self, model: str) -> None:
        self.drive.reset(model)

    @rule(left=st.sets(names, max_size=2), changed=st.sets(names, max_size=2))
    def configure(self, left: set[str], changed: set[str]) -> None:
        staying = [spec for spec in MODELS if spec.name not in left]
        now = self.drive.now
        self.drive.take(self.drive.scheduler.configure(POLICY, staying, now, changed=changed - left))

    @rule(seconds=st.floats(0, 90))
    def sleep(self, seconds: float) -> None:
        self.drive.sleep(seconds)

    def draw_in(self, data: st.DataObject, *states: ReplicaState) -> ReplicaId | None:
        """A replica in one of these states; None when there is none."""
        found = sorted(r.id for r in self.drive.scheduler.replicas.values() if r.state in states)
        return data.draw(st.sampled_from(found)) if found else None

    @invariant()
    def nothing_is_overbooked(self) -> None:
        for device in self.drive.scheduler.devices():
            assert 0 <= device.booked <= device.device.capacity

    @invariant()
    def nothing_is_overcommitted(self) -> None:
        for view in self.drive.scheduler.devices():
            held = sum(held.get(view.device.id, 0) for held in self.holding().values())
            assert held + OTHERS[view.device.id] <= view.total

    @invariant()
    def the_count_is_kept(self) -> None:
        counts = Counter(replica.model for replica in self.drive.scheduler.replicas.values())
        assert len(counts) <= 2
        assert all(count <= MOST[model] for model, count in counts.items())

    @invariant()
    def those_that_exclude_each_other_are_not_in_memory_together(self) -> None:
        assert not {"pinned", "b"} <= {replica.model for replica in self.drive.scheduler.replicas.values()}

    @invariant()
    def a_pinned_one_goes_only_when_an_operator_says_so(self) -> None:
        assert all(evicted.model != "pinned" for evicted in self.drive.evicted)
        assert all(stop.reason in self.WORDS for stop in self.drive.stopped if stop.model == "pinned")

    @invariant()
    def slots_are_not_oversubscribed(self) -> None:
        for replica in self.drive.scheduler.replicas.values():
            assert sum(run.width for run in replica.leases.values()) == replica.busy <= replica.slots

    @invariant()
    def each_ticket_is_waiting_or_answered_once(self) -> None:
        waiting = sum(self.drive.scheduler.view(name, self.drive.now).queue_depth for name in NAMES)
        answered = set(self.drive.granted) | set(self.drive.rejected)
        assert waiting == len(self.asked - answered - self.left)

    @invariant()
    def nobody_waits_beside_free_slots(self) -> None:
        replicas = self.drive.scheduler.replicas.values()
        for ticket in map(self.drive.tickets.__getitem__, self.waiting()):
            is_first = self.drive.positions(ticket.id) == [1]
            own = [replica for replica in replicas if replica.model == ticket.model]
            assert not (is_first and any(replica.has_room_for(ticket) for replica in own))

    @invariant()
    def an_extra_replica_costs_nobody_his_place(self) -> None:
        """Who is evicted for a model had to go for its first replica, and no other is there beside its rivals."""
        for replica in self.drive.scheduler.replicas.values():
            if replica.makes_room_for is not None and replica.state is ReplicaState.DRAINING:
                served = [r for r in self.drive.scheduler.replicas.values() if r.model == replica.makes_room_for]
                assert all(other.is_coming for other in served)

    @invariant()
    def only_what_is_not_generating_is_stopped(self) -> None:
        for replica in self.drive.scheduler.replicas.values():
            if replica.state is ReplicaState.STOPPING and replica.leases:
                assert any(stop.replica == replica.id and stop.force for stop in self.drive.stopped)

    @invariant()
    def no_waiter_is_past_its_deadline(self) -> None:
        for name in NAMES:
            assert self.drive.scheduler.view(name, self.drive.now).oldest_wait <= 120


TestInvariants = RouterMachine.TestCase
TestInvariants.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
