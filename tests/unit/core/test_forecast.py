"""What is foretold of a wait, and why somebody waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.core.types import Obstacle, Policy, Priority, Ticket
from tests.support.drive import Drive, cpu_model

ONE = Policy(max_models=1)


def used(*, slots: int = 1, load: float = 4.0, service: float = 3.0, policy: Policy = ONE) -> Drive:
    """`a` has been loaded once and has served once, `b` never."""
    drive = Drive([cpu_model("a", slots=slots), cpu_model("b")], policy=policy)
    ticket = drive.ask("a")
    drive.sleep(load)
    drive.ready("a")
    drive.sleep(service)
    drive.end(ticket)
    return drive


def wait(drive: Drive, model: str) -> float:
    return drive.scheduler.view(model, drive.now).expected_wait


def why(drive: Drive, model: str) -> Obstacle | None:
    return drive.scheduler.view(model, drive.now).obstacle


def test_a_free_slot_means_no_wait() -> None:
    drive = used()
    assert wait(drive, "a") == 0
    assert why(drive, "a") is None


def test_a_line_moves_at_the_pace_of_its_slots() -> None:
    drive = used(slots=2)
    for _ in range(5):
        drive.ask("a")
    assert wait(drive, "a") == pytest.approx(4 * 3.0 / 2)
    assert why(drive, "a") is Obstacle.SLOT


def test_what_is_left_of_a_load_comes_before_the_line() -> None:
    drive = used()
    drive.eject("a")
    drive.exit("a")
    drive.ask("a")
    drive.sleep(1)
    assert wait(drive, "a") == pytest.approx(3.0 + 3.0)
    assert why(drive, "a") is Obstacle.LOADING


def test_a_model_without_room_waits_until_another_has_run_dry() -> None:
    drive = used()
    drive.sleep(1)
    drive.ask("a")
    ticket = drive.ask("b")
    place = drive.scheduler.place(ticket, drive.now)
    assert place is not None
    assert place.ahead == 0
    assert place.expected_wait == pytest.approx(3 + 4), "a will have run dry, and b is expected to load like a"
    assert place.obstacle is Obstacle.MEMORY
    assert why(drive, "b") is Obstacle.MEMORY
    drive.sleep(11)
    assert why(drive, "b") is Obstacle.DRAINING


@pytest.mark.parametrize(("pause", "line"), [(1.0, 9), (0.0, 1)], ids=["a long line", "asked again at once"])
def test_one_that_does_not_run_dry_leaves_when_the_claim_is_due(pause: float, line: int) -> None:
    drive = used()
    drive.sleep(pause)
    for _ in range(line):
        drive.ask("a")
    ticket = drive.ask("b")
    place = drive.scheduler.place(ticket, drive.now)
    assert place is not None
    assert place.expected_wait == pytest.approx(10 + 4)


def test_one_that_was_ejected_leaves_though_it_is_pinned() -> None:
    drive = Drive([replace(cpu_model("a"), pinned=True), cpu_model("b")], policy=ONE)
    drive.ask("a")
    drive.sleep(4)
    drive.ready("a")
    drive.eject("a", force=True)
    place = drive.scheduler.place(drive.ask("b"), drive.now)
    assert place is not None
    assert place.expected_wait == pytest.approx(4.0), "b's load"


def test_those_with_older_claims_come_first_and_have_their_turns() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b"), cpu_model("c")], policy=ONE)
    ticket = drive.ask("a")
    drive.sleep(4.0)
    drive.ready("a")
    drive.sleep(3.0)
    drive.end(ticket)
    for _ in range(9):
        drive.ask("a")
    drive.ask("b")
    drive.sleep(1)
    place = drive.scheduler.place(drive.ask("c"), drive.now)
    assert place is not None
    assert place.expected_wait == pytest.approx(9 + 4 + 3 + 4), "b's claim, b's load, b's request, and c's load"


def test_a_long_line_is_held_up_by_a_swap_there_and_back() -> None:
    drive = used()
    lines = [drive.ask("a") for _ in range(12)]
    drive.ask("b")
    first, last = (drive.scheduler.place(ticket, drive.now) for ticket in (lines[1], lines[-1]))
    assert first is not None
    assert first.expected_wait == pytest.approx(3.0)
    assert last is not None
    assert last.expected_wait == pytest.approx(11 * 3.0 + 3 * (4 + 4 + 3)), "a yields at 10, 18 and 26 s of its line"


def test_the_place_in_the_line_follows_the_classes() -> None:
    drive = used()
    drive.ask("a")
    low, normal, high = (drive.ask("a", priority) for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
    places = [drive.scheduler.place(ticket, drive.now) for ticket in (high, normal, low)]
    assert [place.ahead for place in places if place] == [0, 1, 2]
    assert drive.scheduler.place(1, drive.now) is None


def test_a_piece_is_told_how_long_all_of_its_request_has_waited() -> None:
    drive = used()
    drive.ask("a")
    piece = Ticket(99, "a", Priority.NORMAL, drive.now, drive.now + 3, again=True, waited=27)
    drive.take(drive.scheduler.submit(piece, drive.now))
    drive.sleep(4)
    assert drive.rejected[99].message == "No slot of model 'a' became free within 30 s (ready now)."


def test_advice_to_come_back_is_a_forecast() -> None:
    drive = used(service=8.0, policy=Policy(max_models=1, max_queue=2))
    for _ in range(3):
        drive.ask("a")
    refused = drive.rejected[drive.ask("a")]
    assert refused.retry_after == pytest.approx(8.0), "when the line moves on"


def test_a_waiter_that_ran_out_of_time_is_told_how_long_it_would_have_been() -> None:
    drive = used(service=8.0)
    drive.ask("a")
    drive.ask("a")
    late = drive.ask("a", timeout=5)
    drive.sleep(5)
    assert drive.rejected[late].retry_after == pytest.approx(3.0 + 8.0), "what runs is nearly done"


def test_the_view_tells_when_the_first_waiter_is_due() -> None:
    drive = used()
    drive.ask("a")
    drive.ask("a")
    view = drive.scheduler.view("a", drive.now)
    assert view.head_deadline == drive.now + 10
    assert (view.load_seconds, view.service_seconds) == (4.0, 3.0)
