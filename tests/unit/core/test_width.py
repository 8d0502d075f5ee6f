"""Requests that take several slots."""

from __future__ import annotations

import pytest

from router.core.types import Policy, Priority, Status
from tests.support.drive import Drive, cpu_model


def serving(slots: int = 4, *, policy: Policy | None = None) -> tuple[Drive, int]:
    """A ready model with one request on it."""
    drive = Drive([cpu_model("a", slots=slots), cpu_model("b")], policy=policy)
    return drive, drive.serve("a")


def busy(drive: Drive) -> int:
    return drive.scheduler.view("a", drive.now).busy


def test_it_takes_its_slots_and_gives_them_back() -> None:
    drive, _ = serving()
    wide = drive.ask("a", width=3)
    assert wide in drive.granted
    assert busy(drive) == 4
    drive.end(wide)
    assert busy(drive) == 1


def test_it_waits_until_there_are_enough() -> None:
    drive, first = serving()
    second = drive.ask("a")
    wide = drive.ask("a", width=4)
    drive.end(first)
    assert wide not in drive.granted
    drive.end(second)
    assert wide in drive.granted


def test_narrow_ones_behind_it_do_not_keep_it_waiting() -> None:
    drive, first = serving(2)
    wide, narrow = drive.ask("a", width=2), drive.ask("a")
    assert narrow not in drive.granted, "though there is a free slot"
    drive.end(first)
    assert wide in drive.granted
    drive.end(wide)
    assert narrow in drive.granted


def test_one_that_is_wider_than_the_model_takes_all_of_it() -> None:
    drive, first = serving(3)
    wide = drive.ask("a", width=9)
    drive.end(first)
    assert wide in drive.granted
    assert busy(drive) == 3
    drive.end(wide)
    assert busy(drive) == 0


def test_what_it_takes_is_the_replicas_own_number() -> None:
    drive = Drive([cpu_model("a", slots=2)])
    wide = drive.ask("a", width=3)
    drive.ready("a", slots=4)
    assert wide in drive.granted
    assert busy(drive) == 3


@pytest.mark.parametrize("how", ["leaves", "gives up"])
def test_those_behind_it_go_on_when_it_goes(how: str) -> None:
    drive, _ = serving(2)
    wide, narrow = drive.ask("a", width=2, timeout=5), drive.ask("a")
    if how == "leaves":
        drive.leave(wide)
    else:
        drive.sleep(5)
    assert narrow in drive.granted


def test_a_more_urgent_one_stands_before_it_and_takes_the_free_slot() -> None:
    drive, _ = serving(2)
    drive.ask("a", width=2)
    assert drive.ask("a", Priority.HIGH) in drive.granted


def test_a_line_is_as_long_as_its_slots() -> None:
    drive, first = serving(2)
    drive.sleep(4)
    drive.end(first)
    running, wide, last = drive.ask("a", width=2), drive.ask("a", width=2), drive.ask("a")
    place = drive.scheduler.place(last, drive.now)
    assert place is not None
    assert place.position == 2
    assert place.expected_wait == pytest.approx(3 * 4 / 2)
    assert running in drive.granted
    assert wide not in drive.granted


def test_a_crash_frees_all_its_slots() -> None:
    drive, _ = serving()
    drive.ask("a", width=3)
    drive.exit("a")
    assert busy(drive) == 0
    drive.sleep(400)
    drive.ready("a")
    assert drive.ask("a", width=4) in drive.granted


def test_a_model_that_makes_room_waits_for_all_of_it() -> None:
    drive, first = serving(policy=Policy(max_models=1))
    wide = drive.ask("a", width=3)
    drive.ask("b")
    drive.sleep(60)
    drive.end(first)
    assert drive.status("a") is Status.DRAINING
    drive.end(wide)
    assert drive.status("a") is Status.STOPPING
