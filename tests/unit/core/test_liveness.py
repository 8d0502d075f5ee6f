"""What stands still for longer than it can is told; what only takes its time is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from router.core.liveness import Patience
from tests.support.drive import Drive, cpu_model

PATIENCE = Patience(load=60, lease=100, stop=5, reclaim=8)


def troubles(drive: Drive) -> tuple[str, ...]:
    """What is wrong though somebody works on every lease."""
    held = {replica.id: set(replica.leases) for replica in drive.scheduler.replicas.values()}
    return drive.scheduler.troubles(PATIENCE, held, drive.now)


def loading(drive: Drive) -> None:
    drive.ask("a")


def draining(drive: Drive) -> None:
    drive.serve("a")
    drive.eject("a")


def stopping(drive: Drive) -> None:
    drive.rest("a")
    drive.eject("a")


def reclaiming(drive: Drive) -> None:
    stopping(drive)
    drive.exit("a", reclaim=False)


@pytest.mark.parametrize(
    ("lead", "longest", "word"),
    [
        (loading, 60, "has been loading for 71 s, which takes 60 s at most"),
        (draining, 100, "has been draining for 111 s"),
        (stopping, 5, "has been stopping for 16 s"),
        (reclaiming, 8, "has been giving its memory back for 19 s"),
    ],
)
def test_a_step_that_takes_too_long(lead: Callable[[Drive], None], longest: float, word: str) -> None:
    drive = Drive([cpu_model("a")])
    lead(drive)
    drive.now += longest + 9
    assert troubles(drive) == ()
    drive.now += 2
    assert f"model 'a' {word}" in troubles(drive)[0]


def test_conversations_may_be_saved_and_restored_meanwhile() -> None:
    drive = Drive([cpu_model("a", slots=2)])
    loading(drive)
    patience = replace(PATIENCE, keep=30)
    drive.now += 60 + 3 * 30 + 9
    assert drive.scheduler.troubles(patience, {}, drive.now) == ()
    drive.now += 2
    assert len(drive.scheduler.troubles(patience, {}, drive.now)) == 1


def test_an_idle_model_may_stay_for_ever() -> None:
    drive = Drive([cpu_model("a")])
    drive.rest("a")
    drive.now += 1e6
    assert troubles(drive) == ()


def test_a_clock_for_each_step() -> None:
    drive = Drive([cpu_model("a")])
    drive.rest("a")
    drive.now += 1e6
    drive.eject("a")
    assert troubles(drive) == ()


def test_a_waiter_who_is_not_turned_away() -> None:
    drive = Drive([cpu_model("a")])
    drive.serve("a")
    drive.ask("a", timeout=30)
    drive.now += 39  # and nobody ticks
    assert troubles(drive) == ()
    drive.now += 2
    assert troubles(drive) == ("a request should have been turned away 11 s ago",)
    drive.take(drive.scheduler.tick(drive.now))
    assert troubles(drive) == ()


def test_a_slot_that_nobody_works_on() -> None:
    drive = Drive([cpu_model("a", slots=2)])
    known, lost = drive.serve("a"), drive.ask("a")
    held = {drive.replica("a"): {drive.lease(known)}}
    assert drive.scheduler.troubles(PATIENCE, held, drive.now) == ()
    drive.now += 11
    (told,) = drive.scheduler.troubles(PATIENCE, held, drive.now)
    assert told == "1 slot(s) of model 'a' are taken, and nobody works on them"
    drive.end(lost)
    assert drive.scheduler.troubles(PATIENCE, held, drive.now) == ()


def test_a_slot_that_is_taken_for_too_long() -> None:
    drive = Drive([cpu_model("a")])
    drive.serve("a")
    drive.now += 109
    assert troubles(drive) == ()
    drive.now += 2
    assert troubles(drive) == ("1 slot(s) of model 'a' have been taken for more than 100 s",)


def test_a_waiter_beside_a_free_slot() -> None:
    drive = Drive([cpu_model("a", slots=2)])
    drive.serve("a")
    drive.ask("a")
    drive.ask("a")
    (replica,) = drive.scheduler.replicas.values()
    replica.slots = 3  # as no event would leave it
    drive.now += 11
    assert troubles(drive) == ("a request for model 'a' has waited 11 s beside free slots",)
