"""When a slot whose client has gone is idle again, as far as `/slots` tells."""

from __future__ import annotations

import pytest

from router.engine.abandoned import AbandonedLeases
from router.engine.lease import Lease
from router.engine.limits import Limits
from router.engine.ports import SlotReading
from router.engine.slot_watch import SlotWatch
from tests.fakes.launcher import FakeChild


def lease(number: int, granted_at: float = 0.0) -> Lease:
    upstream = FakeChild.no_upstream()
    return Lease(
        lease_id=number, model="m", replica=1, upstream=upstream, granted_at=granted_at, release=lambda *_: None
    )


def busy(*tasks: int) -> list[SlotReading]:
    return [SlotReading(id=number, busy=True, task=task, progress=0) for number, task in enumerate(tasks)]


def test_it_is_over_when_no_slot_is_busy() -> None:
    leases = AbandonedLeases()
    gone = lease(1)
    leases.add(gone)
    assert leases.settle(busy(5), [], now=10) == []
    assert leases.settle([], [], now=11) == [gone]
    assert not leases


def test_it_is_over_beside_steady_short_requests() -> None:
    leases = AbandonedLeases()
    gone, before = lease(1), lease(2)
    leases.add(gone)
    assert leases.settle(busy(5, 6), [before], now=10) == []
    # `before` has ended, its slot serves a younger request; the abandoned task 5 is still there
    assert leases.settle(busy(5, 7), [lease(3, granted_at=9.99)], now=10.1) == []
    # now task 5 is gone, though both slots are busy with younger ones
    assert leases.settle(busy(7, 8), [lease(3, 9.99), lease(4, 10.1)], now=10.2) == [gone]


def test_a_served_lease_keeps_its_own_slot_out_of_it() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1), lease(2)
    leases.add(gone)
    assert leases.settle(busy(5, 6), [served], now=10) == []
    assert leases.settle(busy(6), [served], now=11) == [gone]


def test_a_served_lease_that_was_young_keeps_its_slot_out_of_it() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1), lease(2, granted_at=9.99)
    leases.add(gone)
    assert leases.settle(busy(5, 6), [served], now=10) == []
    assert leases.settle(busy(5, 6), [served], now=10.1) == []
    assert leases.settle(busy(6), [served], now=10.2) == [gone]


def test_a_served_lease_that_came_to_its_slot_late() -> None:
    leases = AbandonedLeases()
    gone, served = lease(1), lease(2, granted_at=9.99)
    leases.add(gone)
    assert leases.settle(busy(5), [served], now=10) == []
    assert leases.settle(busy(5, 6), [served], now=10.1) == []
    assert leases.settle(busy(6), [served], now=10.2) == [gone]


def test_two_that_leave_one_after_the_other() -> None:
    leases = AbandonedLeases()
    first, second = lease(1), lease(2)
    leases.add(first)
    assert leases.settle(busy(5, 6), [second], now=10) == []
    leases.add(second)
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
