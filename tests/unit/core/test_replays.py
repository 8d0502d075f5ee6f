"""Tickets of requests that lost their replica, and places in the queue."""

from __future__ import annotations

from router.core.commands import RejectCode
from router.core.types import Policy, Priority, Status, Ticket
from tests.support.drive import Drive, cpu_model


def back(drive: Drive, ticket: int, *, arrived: float, timeout: float = 240.0) -> None:
    """A request that arrived then comes back now."""
    again = Ticket(ticket, "a", Priority.NORMAL, arrived, arrived + timeout, again=True)
    drive.take(drive.scheduler.submit(again, drive.now))


def test_a_full_queue_takes_back_who_was_in_it_already() -> None:
    drive = Drive([cpu_model("a")], policy=Policy(max_queue=1))
    drive.serve("a")
    waiting = drive.ask("a")
    refused = drive.ask("a")
    assert drive.rejected[refused].code is RejectCode.QUEUE_FULL
    back(drive, 100, arrived=drive.now - 1)
    assert 100 not in drive.rejected
    assert drive.positions(100, waiting, refused) == [1, 2, 0]


def test_a_pause_is_neither_cut_short_nor_an_obstacle() -> None:
    drive = Drive([cpu_model("a")], policy=Policy(backoff_base=10.0))
    drive.serve("a")
    drive.exit("a")
    back(drive, 100, arrived=drive.now)
    assert drive.scheduler.view("a", drive.now).status is Status.FAILED
    drive.sleep(9.9)
    assert len(drive.started) == 1
    drive.sleep(0.2)
    drive.ready("a")
    assert 100 in drive.granted


def test_it_is_turned_away_at_its_own_deadline() -> None:
    drive = Drive([cpu_model("a")])
    drive.serve("a")
    back(drive, 100, arrived=drive.now - 10, timeout=5)
    drive.sleep(0)
    assert drive.rejected[100].code is RejectCode.TIMEOUT


def test_places_follow_the_classes() -> None:
    drive = Drive([cpu_model("a")])
    running = drive.serve("a")
    low, normal, high = (drive.ask("a", priority) for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
    assert drive.positions(running, low, normal, high) == [0, 3, 2, 1]


def test_a_pause_ends_also_for_one_who_comes_when_nobody_else_waits() -> None:
    drive = Drive([cpu_model("a")], policy=Policy(backoff_base=10.0))
    drive.serve("a")
    drive.exit("a")
    drive.eject("a")  # nobody wants it back
    drive.sleep(5)
    back(drive, 100, arrived=drive.now)
    drive.sleep(5.1)
    assert len(drive.started) == 2
