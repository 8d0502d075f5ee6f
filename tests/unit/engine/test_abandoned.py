"""When a slot whose client has gone is idle again, as far as `/slots` tells."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from router.engine.abandoned import AbandonedLeases
from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.ports import SlotReading
from router.engine.slot_watch import SlotWatch
from tests.fakes.launcher import FakeChild

GRACE = 0.25  # of a small request


def lease(number: int, granted_at: float = 0.0, *, width: int = 1) -> Lease:
    return Lease(
        lease_id=number,
        model="m",
        replica=1,
        upstream=FakeChild.no_upstream(),
        granted_at=granted_at,
        release=lambda *_: None,
        width=width,
    )


def busy(*tasks: int) -> list[SlotReading]:
    return [SlotReading(id=number, busy=True, task=task, progress=0) for number, task in enumerate(tasks)]


def test_it_is_over_when_no_slot_is_busy() -> None:
    leases = AbandonedLeases()
    gone = lease(1)
    leases.add(gone, now=9.995)
    assert leases.settle(busy(5), [], now=10) == []
    assert leases.settle([], [], now=11) == [gone]
    assert not leases


def test_it_is_over_beside_steady_short_requests() -> None:
    leases = AbandonedLeases()
    gone, before = lease(1), lease(2)
    leases.add(gone, now=9.995)
    assert leases.settle(busy(5, 6), [before], now=10) == []
    # `before` has ended, its slot serves a younger request; the abandoned task 5 is still there
    assert leases.settle(busy(5, 7), [lease(3, granted_at=9.99)], now=10.1) == []
    # now task 5 is gone, though both slots are busy with younger ones
    assert leases.settle(busy(7, 8), [lease(3, 9.99), lease(4, 10.1)], now=10.2) == [gone]


def test_a_served_lease_keeps_its_own_slot_out_of_it() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1), lease(2)
    leases.add(gone, now=9.995)
    assert leases.settle(busy(5, 6), [served], now=10) == []
    assert leases.settle(busy(6), [served], now=11) == [gone]


def test_a_served_lease_that_was_young_keeps_its_slot_out_of_it() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1), lease(2, granted_at=9.99)
    leases.add(gone, now=9.995)
    assert leases.settle(busy(5, 6), [served], now=10) == []
    assert leases.settle(busy(5, 6), [served], now=10.5) == []
    assert leases.settle(busy(6), [served], now=10.6) == [gone]


def test_a_served_lease_that_came_to_its_slot_late() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1), lease(2, granted_at=9.99)
    leases.add(gone, now=9.995)
    assert leases.settle(busy(5), [served], now=10) == []
    assert leases.settle(busy(5, 6), [served], now=10.5) == []
    assert leases.settle(busy(6), [served], now=10.6) == [gone]


def test_two_that_leave_one_after_the_other() -> None:
    leases = AbandonedLeases()
    first, second = lease(1), lease(2)
    leases.add(first, now=9.995)
    assert leases.settle(busy(5, 6), [second], now=10) == []
    leases.add(second, now=10.5)
    assert leases.settle(busy(5, 6), [], now=11) == []
    assert len(leases.settle(busy(6), [], now=12)) == 1
    assert len(leases.settle([], [], now=13)) == 1


@pytest.mark.anyio
async def test_a_slot_is_held_until_its_request_has_ended() -> None:
    watch = SlotWatch(FakeChild("m", 1), Limits(), lambda _: None)
    read, given_up = lease(1), lease(2)
    watch.add(read)
    watch.add(given_up)
    watch.abandon(given_up)
    assert watch.held == {1, 2}
    watch.finish(read)
    assert watch.held == {2}


def test_one_that_nobody_has_seen_may_still_come() -> None:
    leases = AbandonedLeases()
    gone = lease(1, granted_at=10)
    leases.add(gone, now=10.001)
    assert leases.settle([], [], now=10.002) == []
    assert leases.settle(busy(5), [], now=10.1) == []
    assert leases.settle([], [], now=10.2) == [gone], "it has come and gone"


def test_one_that_never_comes_is_not_waited_for_for_ever() -> None:
    leases = AbandonedLeases()
    gone = lease(1, granted_at=10)
    leases.add(gone, now=10.001)
    assert leases.settle([], [], now=10 + GRACE - 0.01) == []
    assert leases.settle([], [], now=10 + GRACE + 0.01) == [gone]


def test_one_with_a_large_body_has_more_time() -> None:
    leases = AbandonedLeases()
    gone = lease(1)
    gone.sent(1_000_000)
    now = gone.shown_by - GRACE - 2.0
    leases.add(gone, now)
    assert leases.settle([], [], now + 2.0) == []
    assert leases.settle([], [], now + 2.3) == [gone]


def test_an_answer_that_has_begun_has_its_slot() -> None:
    leases = AbandonedLeases()
    gone = lease(1, granted_at=10)
    gone.answered()
    leases.add(gone, now=10.001)
    assert leases.settle([], [], now=10.002) == [gone]


def test_a_look_that_began_before_tells_nothing() -> None:
    leases = AbandonedLeases()
    gone = lease(1, granted_at=10)
    gone.answered()
    leases.add(gone, now=10.5)
    assert leases.settle([], [gone], now=10.4) == []
    assert leases.settle([], [], now=10.6) == [gone]


def test_it_comes_late_beside_one_that_is_served() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1, granted_at=10), lease(2)
    leases.add(gone, now=10.001)
    assert leases.settle(busy(4), [served], now=10.002) == []
    assert leases.settle(busy(4, 5), [served], now=10.1) == []
    assert leases.settle(busy(4, 5), [served], now=11) == []
    assert leases.settle(busy(4), [served], now=12) == [gone]


def test_what_hangs_does_so_from_when_it_was_due() -> None:
    leases = AbandonedLeases()
    gone = lease(1, granted_at=10)
    leases.add(gone, now=10.1)
    assert leases.oldest == 10 + GRACE


def test_the_tasks_of_a_wide_one_do_not_pass_for_one_that_nobody_has_seen() -> None:
    leases = AbandonedLeases()
    served, gone = lease(1, width=3), lease(2, granted_at=10)
    leases.add(gone, now=10.01)
    assert leases.settle(busy(5, 6, 7), [served], now=10.02) == []
    assert leases.settle(busy(5, 6, 7, 8), [served], now=10.1) == [], "there it comes"
    assert leases.settle(busy(8), [], now=11) == []
    assert leases.settle(busy(), [], now=12) == [gone]


def test_a_wide_one_is_over_with_its_last_task() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1, width=3), lease(2)
    leases.add(gone, now=9.9)
    assert leases.settle(busy(5, 6, 7, 8), [served], now=10) == []
    assert leases.settle(busy(6, 8), [served], now=11) == []
    assert leases.settle(busy(8), [served], now=12) == [gone]


def test_of_several_the_widest_is_over_first_that_is_not_needed() -> None:
    leases = AbandonedLeases()
    narrow, wide = lease(1), lease(2, width=3)
    leases.add(narrow, now=9.9)
    leases.add(wide, now=9.9)
    assert leases.settle(busy(5, 6, 7, 8), [], now=10) == []
    assert leases.settle(busy(7, 8), [], now=11) == [narrow]
    assert leases.settle(busy(8), [], now=12) == []
    assert leases.settle(busy(), [], now=13) == [wide]


def test_one_task_needs_no_more_than_one_slot() -> None:
    leases = AbandonedLeases()
    narrow, wide = lease(1), lease(2, width=3)
    leases.add(narrow, now=9.9)
    leases.add(wide, now=9.9)
    assert leases.settle(busy(5), [], now=10) == [wide]


@dataclass
class Work:
    """What a child does for one lease: `tasks` from `begins` on, each until its end."""

    begins: float
    lasts: list[float]
    tasks: dict[int, float] | None = None


@dataclass
class Child:
    """Takes each request a moment after it was sent, works for a while, and drops what is abandoned a moment later."""

    chance: random.Random
    now: float = 1000.0
    tasks: int = 0
    works: dict[int, Work] = field(default_factory=dict)

    def ask(self, number: int, delay: float, width: int) -> None:
        lasts = [self.chance.choice([0.01, 0.05, 0.3, 2]) for _ in range(width)]
        self.works[number] = Work(self.now + self.chance.random() * delay, lasts)

    def abandon(self, number: int) -> None:
        work, soon = self.works[number], self.chance.choice([0.005, 0.05, 1])
        work.lasts = [min(lasts, soon) for lasts in work.lasts]
        if work.tasks is not None:
            work.tasks = {task: min(ends, self.now + soon) for task, ends in work.tasks.items()}

    def go_on(self, seconds: float) -> list[int]:
        """Whose work has ended."""
        self.now += seconds
        for work in self.works.values():
            if work.tasks is None and self.now >= work.begins:
                work.tasks = {self.tasks + count: self.now + lasts for count, lasts in enumerate(work.lasts, 1)}
                self.tasks += len(work.lasts)
            elif work.tasks is not None:
                work.tasks = {task: ends for task, ends in work.tasks.items() if ends > self.now}
        ended = [number for number, work in self.works.items() if work.tasks == {}]
        for number in ended:
            del self.works[number]
        return ended

    def look(self) -> list[SlotReading]:
        return busy(*(task for work in self.works.values() for task in work.tasks or ()))

    def wants(self) -> int:
        """Slots that it works with, or will at once."""
        return sum(len(work.lasts if work.tasks is None else work.tasks) for work in self.works.values())


def held(leases: Iterable[Lease]) -> int:
    return sum(lease.width for lease in leases)


@pytest.mark.parametrize("widths", [(1,), (1, 1, 2, 3)])
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("delay", [0.0, 0.04, 0.2])
def test_no_slot_is_granted_twice_and_none_is_lost(delay: float, slots: int, widths: tuple[int, ...]) -> None:
    for seed in range(40):
        chance = random.Random(seed)
        child, leases = Child(chance), AbandonedLeases()
        serving: dict[int, Lease] = {}
        for number in range(300):
            for ended in child.go_on(chance.choice([0.001, 0.004, 0.02, 0.1])):
                serving.pop(ended, None)
            chosen = chance.random()
            width = min(slots, chance.choice(widths))
            if chosen < 0.45 and held(serving.values()) + held(leases) + width <= slots:
                serving[number] = lease(number, granted_at=child.now, width=width)
                child.ask(number, delay, width)
            elif chosen < 0.65 and serving:
                left = chance.choice(list(serving))
                leases.add(serving.pop(left), child.now)
                child.abandon(left)
            elif chosen > 0.4:
                leases.settle(child.look(), list(serving.values()), child.now)
                assert child.wants() <= held(serving.values()) + held(leases), f"seed {seed}, step {number}"
        for _ in range(30):
            for ended in child.go_on(0.2):
                serving.pop(ended, None)
            leases.settle(child.look(), list(serving.values()), child.now)
        assert not leases, f"seed {seed}"
