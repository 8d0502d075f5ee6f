"""Who is loaded next and who makes room, one story each: lingering, density, worth, pins, exclusions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.core.commands import RejectCode
from router.core.types import Need, Policy, Priority, Status
from tests.support.drive import GIB, Drive, cpu_model

ONE = Policy(max_models=1)
LOAD = 2.0


def load(drive: Drive, model: str, seconds: float = LOAD) -> None:
    """Its start is made; it becomes ready after its usual time."""
    drive.sleep(seconds)
    drive.ready(model)


def loop(drive: Drive, model: str, *, rounds: int, think: float, priority: Priority = Priority.NORMAL) -> None:
    """A client that asks again soon after each answer."""
    for _ in range(rounds):
        ticket = drive.ask(model, priority)
        assert ticket in drive.granted
        drive.sleep(0.2)
        drive.end(ticket)
        drive.sleep(think)


def two_models(policy: Policy = ONE) -> Drive:
    """`a` is loaded and idle, `b` is cold, and one has room."""
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=policy)
    ticket = drive.ask("a")
    load(drive, "a")
    drive.end(ticket)
    return drive


# Lingering


def test_a_model_that_is_asked_again_at_once_is_kept_for_it() -> None:
    drive = two_models()
    loop(drive, "a", rounds=3, think=0.01)
    running = drive.ask("a")
    drive.ask("b")
    drive.end(running)
    assert drive.status("a") is Status.READY
    assert drive.ask("a") in drive.granted
    assert not drive.evicted


def test_it_is_not_kept_for_long() -> None:
    drive = two_models()
    loop(drive, "a", rounds=3, think=0.01)
    running = drive.ask("a")
    drive.ask("b")
    drive.end(running)
    drive.sleep(0.26)
    assert [(evicted.model, evicted.for_model) for evicted in drive.evicted] == [("a", "b")]


def test_one_that_was_not_asked_again_is_not_kept() -> None:
    drive = two_models()
    loop(drive, "a", rounds=3, think=5)
    running = drive.ask("a")
    drive.ask("b")
    drive.end(running)
    assert [evicted.model for evicted in drive.evicted] == ["a"]


def test_what_a_client_does_is_learned_although_the_model_was_gone() -> None:
    drive = two_models()
    loop(drive, "a", rounds=3, think=5)
    running, other = drive.ask("a"), drive.ask("b")
    drive.end(running)
    assert [evicted.model for evicted in drive.evicted] == ["a"]
    drive.sleep(0.01)
    again = drive.ask("a")
    drive.exit("a")
    load(drive, "b")
    drive.end(other)
    drive.sleep(0.26)
    drive.exit("b")
    load(drive, "a")
    drive.ask("b")
    drive.end(again)
    assert drive.status("a") is Status.READY, "it came back at once, and will be waited for"


def test_nobody_is_waited_for_beyond_what_the_resident_is_entitled_to() -> None:
    drive = two_models()
    loop(drive, "a", rounds=20, think=0.05)
    running = drive.ask("a")
    drive.ask("b", Priority.HIGH)
    drive.end(running)
    assert [evicted.model for evicted in drive.evicted] == ["a"], "b is due at once, and a has had its residency"


def test_within_its_residency_it_is_waited_for_even_by_one_that_is_due() -> None:
    drive = two_models()
    loop(drive, "a", rounds=3, think=0.01)
    running = drive.ask("a")
    drive.ask("b", Priority.HIGH)
    drive.end(running)
    assert drive.status("a") is Status.READY


# Who is next


def three_hungry() -> Drive:
    """`a` runs; one request waits for `b`, then three for `c`."""
    drive = Drive([cpu_model(name) for name in "abc"], policy=ONE)
    drive.ask("a")
    load(drive, "a")
    drive.sleep(5)
    drive.ask("b")
    for _ in range(3):
        drive.ask("c")
    return drive


def finish(drive: Drive, model: str) -> None:
    """Whatever runs on it ends."""
    for ticket, grant in list(drive.granted.items()):
        if grant.model == model:
            drive.end(ticket)
    drive.sleep(0.26)
    drive.exit(model)


def test_the_model_with_the_most_work_waiting_is_next() -> None:
    drive = three_hungry()
    finish(drive, "a")
    assert drive.starts() == ["a", "c"]


def test_an_urgent_request_weighs_more() -> None:
    drive = three_hungry()
    drive.ask("b", Priority.HIGH)
    finish(drive, "a")
    assert drive.starts() == ["a", "b"]


def test_low_requests_weigh_little() -> None:
    drive = Drive([cpu_model(name) for name in "abc"], policy=ONE)
    drive.serve("a")
    for _ in range(3):
        drive.ask("b", Priority.LOW)
    drive.ask("c")
    finish(drive, "a")
    assert drive.starts() == ["a", "c"]


def test_one_that_is_overdue_goes_before_the_most_work() -> None:
    drive = three_hungry()
    drive.sleep(4)
    for _ in range(9):
        drive.ask("c")
    drive.sleep(7)
    assert drive.status("a") is Status.DRAINING
    finish(drive, "a")
    assert drive.starts() == ["a", "b"]


def test_who_has_had_its_turn_stands_behind_those_who_have_not() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b"), cpu_model("c")], policy=replace(ONE, min_residency=15.0))
    drive.serve("a")
    for _ in range(5):
        drive.ask("a")
    drive.sleep(1)
    drive.ask("b")
    drive.sleep(1)
    drive.ask("c")
    drive.sleep(14)
    finish(drive, "a")
    assert drive.starts() == ["a", "b"]
    drive.ready("b")
    finish(drive, "b")
    assert drive.starts() == ["a", "b", "c"], "a's requests are older, but it yielded with them"


@pytest.mark.parametrize(
    ("priority", "line", "residency", "stays"),
    [
        (Priority.NORMAL, 2, None, True),
        (Priority.NORMAL, 60, None, False),
        (Priority.LOW, 2, None, False),
        (Priority.NORMAL, 2, 2 * LOAD, False),  # set by hand, it is what was set
    ],
)
def test_a_short_line_is_finished_rather_than_come_back_for(
    priority: Priority, line: int, residency: float | None, *, stays: bool
) -> None:
    drive = two_models(replace(ONE, min_residency=residency))
    loop(drive, "a", rounds=3, think=0.01)
    drive.eject("a")
    drive.exit("a")
    drive.ask("a")
    load(drive, "a")
    for _ in range(line):
        drive.ask("a", priority)
    drive.ask("b", Priority.HIGH)
    drive.sleep(2 * LOAD + 1)
    assert drive.status("a") is (Status.READY if stays else Status.DRAINING)
    drive.sleep(LOAD)
    assert drive.status("a") is Status.DRAINING


def test_low_priority_forces_nobody_out_until_it_has_aged() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=ONE)
    drive.serve("a")
    drive.ask("b", Priority.LOW)
    drive.sleep(59)
    assert drive.status("a") is Status.READY
    drive.sleep(2)
    assert drive.status("a") is Status.DRAINING


# Who goes


def test_the_one_that_is_asked_for_most_stays() -> None:
    drive = Drive([cpu_model(name) for name in "abc"], policy=Policy(max_models=2))
    for name, rounds in (("a", 9), ("b", 1)):
        ticket = drive.ask(name)
        load(drive, name)
        drive.end(ticket)
        loop(drive, name, rounds=rounds, think=1)
    drive.ask("c")
    assert [evicted.model for evicted in drive.evicted] == ["b"], "although a was used before it"


def test_the_one_that_loads_fastest_goes() -> None:
    drive = Drive([cpu_model(name) for name in "abc"], policy=Policy(max_models=2))
    for name, seconds in (("a", 20.0), ("b", 1.0)):
        ticket = drive.ask(name)
        load(drive, name, seconds)
        drive.end(ticket)
        drive.sleep(1)
    drive.ask("c")
    assert [evicted.model for evicted in drive.evicted] == ["b"]


def test_evict_cost_makes_a_model_dearer() -> None:
    specs = [replace(cpu_model("a"), evict_cost=5.0), cpu_model("b"), cpu_model("c")]
    drive = Drive(specs, policy=Policy(max_models=2))
    for name in "ab":
        ticket = drive.ask(name)
        load(drive, name)
        drive.end(ticket)
        drive.sleep(1)
    drive.ask("c")
    assert [evicted.model for evicted in drive.evicted] == ["b"]


def test_a_pinned_model_stays_and_does_not_idle_out() -> None:
    pinned = replace(cpu_model("a", 2, idle_timeout=10), pinned=True)
    drive = Drive([pinned, cpu_model("b", 2), cpu_model("c", 2)], policy=Policy(max_models=2))
    drive.rest("a")
    drive.sleep(60)
    drive.rest("b")
    drive.ask("c")
    assert [stop.model for stop in drive.stopped] == ["b"]


def test_what_cannot_be_loaded_beside_pinned_models_is_refused_with_the_arithmetic() -> None:
    drive = Drive([replace(cpu_model("a", 10), pinned=True), cpu_model("b", 8)])
    drive.rest("a")
    refused = drive.rejected[drive.ask("b")]
    assert refused.code is RejectCode.TOO_LARGE
    for part in ("8,192 MiB", "6,144 MiB of 16,384 MiB free", "2,048 MiB short", "'a'"):
        assert part in refused.message
    assert drive.status("b") is Status.FAILED
    drive.eject("a")
    drive.exit("a")
    assert drive.ask("b") not in drive.rejected
    assert drive.status("b") is Status.LOADING


def test_room_for_growth_is_not_what_keeps_a_model_from_a_place_beside_pinned_ones() -> None:
    growing = replace(cpu_model("b"), need=Need(0, 2 * GIB, reserve=5 * GIB))
    drive = Drive([replace(cpu_model("a", 10), pinned=True), growing, cpu_model("c", 1)])
    drive.rest("a")
    drive.rest("c")
    ticket = drive.ask("b")
    assert ticket not in drive.rejected
    drive.exit("c")
    placement = drive.started[-1].placement
    assert (drive.started[-1].model, placement.reserve, placement.withheld) == ("b", 4 * GIB, GIB)


def test_pinned_models_that_take_all_places_are_named() -> None:
    drive = Drive([replace(cpu_model("a"), pinned=True), cpu_model("b")], policy=ONE)
    drive.rest("a")
    assert "max_concurrent_models" in drive.rejected[drive.ask("b")].message


def test_models_that_exclude_each_other_replace_each_other() -> None:
    specs = [replace(cpu_model("a"), exclusive_with=frozenset("b")), cpu_model("b"), cpu_model("c")]
    drive = Drive(specs)
    drive.rest("a")
    drive.rest("c")
    drive.ask("b")
    assert [evicted.model for evicted in drive.evicted] == ["a"]
    assert drive.starts() == ["a", "c"], "not before it is gone"
    drive.exit("a")
    assert drive.starts() == ["a", "c", "b"]


def test_a_model_waits_for_a_busy_one_that_it_excludes_and_evicts_nobody_else() -> None:
    specs = [replace(cpu_model("a"), exclusive_with=frozenset("b")), cpu_model("b"), cpu_model("c")]
    drive = Drive(specs)
    drive.rest("c")
    drive.ask("a")
    drive.ask("b", Priority.HIGH)
    drive.sleep(30)
    assert not drive.evicted, "a is still loading, and that c goes would not help"


def test_what_excludes_a_pinned_model_is_refused() -> None:
    drive = Drive([replace(cpu_model("a"), pinned=True), replace(cpu_model("b"), exclusive_with=frozenset("a"))])
    drive.rest("a")
    assert "exclusive_with" in drive.rejected[drive.ask("b")].message


# Loads for nobody


def test_a_load_that_nobody_waits_for_any_more_is_given_up() -> None:
    drive = Drive([cpu_model("a", 6)])
    ticket = drive.ask("a")
    drive.sleep(1)
    drive.leave(ticket)
    assert [(stop.model, stop.force) for stop in drive.stopped] == [("a", True)]
    drive.exit("a")
    assert drive.status("a") is Status.OFF


def test_a_load_that_is_nearly_done_is_finished() -> None:
    drive = Drive([cpu_model("a", 6)])
    ticket = drive.ask("a")
    drive.sleep(6)
    drive.leave(ticket)
    assert not drive.stopped


def test_an_impatient_client_that_tries_again_gets_its_model_in_the_end() -> None:
    drive = Drive([cpu_model("a", 6)])
    first = drive.ask("a")
    drive.sleep(1)
    drive.leave(first)
    drive.exit("a")
    second = drive.ask("a")
    drive.sleep(1)
    drive.leave(second)
    assert drive.status("a") is Status.LOADING
    assert len(drive.stopped) == 1


def test_a_load_that_an_operator_wants_goes_on() -> None:
    drive = Drive([cpu_model("a", 6)])
    drive.load("a")
    drive.leave(drive.ask("a"))
    assert not drive.stopped


def test_the_residency_follows_the_load_time_within_limits() -> None:
    for seconds, residency in ((0.1, 1.0), (4.0, 8.0), (60.0, 30.0)):
        drive = Drive([cpu_model("a", 1 * GIB / GIB), cpu_model("b")], policy=ONE)
        drive.ask("a")
        load(drive, "a", seconds)
        drive.ask("b", Priority.HIGH)
        drive.sleep(residency - 0.05)
        assert drive.status("a") is Status.READY
        drive.sleep(0.1)
        assert drive.status("a") is Status.DRAINING
