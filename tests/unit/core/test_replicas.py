"""Several replicas of a model: when there is one more, which goes first, and what a failed one means."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from router.core.affinity import Known, marks_of
from router.core.lifecycle import ReplicaState
from router.core.types import DeviceKind, Exhaustion, Pin, Policy, Priority, Status, TicketId
from tests.support.drive import Drive, cpu_model, gpu, gpu_model, host

LOAD = 2.0


def hot(
    gib: float = 1, *, most: int = 2, slots: int = 1, pinned: bool = False, residency: float | None = None
) -> Drive:
    """A model `a` that may have several replicas, and others beside it; RAM of 16 GiB."""
    a = replace(cpu_model("a", gib, slots=slots), max_replicas=most, pinned=pinned)
    return Drive([a, cpu_model("b", 8), cpu_model("c", 1)], policy=Policy(max_models=2, min_residency=residency))


def taught(drive: Drive, seconds: float, model: str = "a") -> None:
    """Load the model, and show how long its requests take."""
    ticket = drive.ask(model)
    drive.now += LOAD
    drive.ready(model)
    drive.now += seconds
    drive.end(ticket)


def grown(drive: Drive, count: int = 2) -> list[TicketId]:
    """Bring `a` to so many replicas, with work on each of them; returns what runs and what waits."""
    taught(drive, 1.0)
    tickets = [drive.ask("a") for _ in range(4 * count)]
    for _ in range(count - 1):
        drive.sleep(1.0)
        drive.now += LOAD - 1.0
        drive.ready("a")
    assert len(drive.replicas("a", ReplicaState.READY)) == count
    return tickets


@dataclass
class Line:
    """A line at a model that loads in 2 s: seconds of a request, how many wait, how long they have waited."""

    name: str
    service: float
    waiting: int
    grows: bool
    waited: float = 0.0
    priority: Priority = Priority.NORMAL
    slots: int = 1


@pytest.mark.parametrize(
    "line",
    [
        Line("nobody waits", service=9.0, waiting=0, grows=False),
        Line("it is over before the load is", service=0.5, waiting=2, grows=False),
        Line("the last one waits for longer than a load", service=0.5, waiting=5, grows=True),
        Line("one long request is enough", service=3.0, waiting=1, grows=True),
        Line("more slots make the line shorter", service=0.5, waiting=5, slots=4, grows=False),
        Line("a high one is not overdue at once", service=0.5, waiting=1, priority=Priority.HIGH, grows=False),
        Line("a high one has waited too long", service=0.5, waiting=1, priority=Priority.HIGH, waited=10, grows=True),
        Line("a normal one is overdue", service=0.5, waiting=1, waited=10, grows=True),
        Line("a low one is not yet", service=0.5, waiting=1, priority=Priority.LOW, waited=50, grows=False),
        Line("a low one is overdue", service=0.5, waiting=1, priority=Priority.LOW, waited=60, grows=True),
    ],
    ids=lambda line: line.name,
)
def test_one_more_is_loaded_when_it_comes_in_time_to_be_of_use(line: Line) -> None:
    drive = hot(slots=line.slots)
    taught(drive, line.service)
    for _ in range(line.slots + line.waiting):
        drive.ask("a", line.priority)
    drive.sleep(max(1.0, line.waited))
    assert (drive.starts() == ["a", "a"]) == line.grows


def test_nobody_takes_its_place_where_the_memory_is_idle() -> None:
    drive = hot()
    taught(drive, 0.5)
    drive.sleep(20)
    for _ in range(2):
        drive.ask("a")
    drive.ask("c", Priority.HIGH)
    assert drive.starts() == ["a", "c"], "the line of a is no longer for c, which has a place of its own"


def test_there_are_never_more_than_allowed() -> None:
    drive = hot(most=3)
    grown(drive, 3)
    for _ in range(50):
        drive.ask("a")
    drive.sleep(30)
    assert drive.starts() == ["a", "a", "a"]


def test_one_comes_after_the_other() -> None:
    drive = hot(most=4)
    taught(drive, 5.0)
    for _ in range(20):
        drive.ask("a")
    drive.sleep(1.0)
    drive.observe()
    assert drive.starts() == ["a", "a"]


def test_the_line_goes_to_whichever_replica_is_free() -> None:
    drive = hot()
    first, second, *rest = grown(drive)
    one, two = drive.replicas("a")
    assert [drive.granted[first].replica, drive.granted[second].replica] == [one, two]
    drive.end(second)
    drive.end(first)
    assert [drive.granted[ticket].replica for ticket in rest[:2]] == [two, one]
    assert rest[2] not in drive.granted


def test_nobody_is_evicted_for_an_extra_one() -> None:
    drive = hot(gib=9)
    drive.rest("c")
    taught(drive, 5.0)
    for _ in range(9):
        drive.ask("a")
    drive.sleep(60)
    assert drive.starts() == ["c", "a"]
    assert not drive.evicted


def test_it_takes_no_place_from_a_model() -> None:
    drive = hot()
    grown(drive)
    drive.ask("c")
    assert drive.starts()[-1] == "c"
    assert not drive.evicted


def test_memory_that_somebody_waits_for_is_not_idle() -> None:
    drive = Drive([replace(cpu_model("a", 2), max_replicas=2), cpu_model("big", 15)])
    taught(drive, 5.0)
    drive.ask("a")
    drive.ask("big")  # would fit in place of `a`, whose turn it is
    for _ in range(9):
        drive.ask("a")
    drive.sleep(1)
    assert drive.starts() == ["a"]


def test_a_gpu_that_is_loading_is_left_alone() -> None:
    models = [replace(gpu_model("a", 2), max_replicas=2), gpu_model("b", 2)]
    drive = Drive(models, devices=[host(16), gpu(0, 16)])
    taught(drive, 5.0)
    drive.ask("b")
    for _ in range(9):
        drive.ask("a")
    drive.sleep(1)
    assert drive.starts() == ["a", "b"]
    assert len(drive.replicas("a")) == 1, "nothing is booked for it either"
    drive.allocated("b")
    assert drive.starts() == ["a", "b", "a"]


def test_an_extra_one_is_never_cut_to_fit() -> None:
    need = replace(gpu_model("a", 20).need, pin=Pin(alone=True))
    models = [replace(gpu_model("a"), need=need, max_replicas=2)]
    drive = Drive(models, devices=[host(64), gpu(0, 16), gpu(1, 16)])
    taught(drive, 5.0)
    assert not drive.started[0].placement.whole
    for _ in range(9):
        drive.ask("a")
    drive.sleep(5)
    assert drive.starts() == ["a"]


def test_the_extra_one_goes_first_when_another_wants_memory() -> None:
    drive = hot(gib=5)
    drive.rest("c")
    grown(drive)
    drive.sleep(10)
    drive.ask("b")
    assert [(evicted.model, evicted.for_model) for evicted in drive.evicted] == [("a", "b"), ("c", "b")]
    assert drive.status("a") is Status.READY, "one of them works on; c idles, and has a place that b needs"


def test_an_extra_one_that_works_has_its_residency_and_then_drains() -> None:
    drive = hot(gib=5, residency=20.0)
    tickets = grown(drive)
    one, two = drive.replicas("a")
    since = drive.scheduler.replicas[one].since
    drive.ask("b", Priority.LOW)
    drive.sleep(since + 19.9 - drive.now)
    assert not drive.evicted
    drive.sleep(0.2)
    (evicted,) = drive.evicted
    assert (evicted.model, evicted.for_model) == ("a", "b")
    running = next(t for t in tickets if t in drive.granted and drive.granted[t].replica == evicted.replica)
    assert not drive.stopped
    drive.end(running)
    drive.exit(replica=evicted.replica)
    assert drive.starts()[-1] == "b"
    assert drive.status("a") is Status.READY
    assert {one, two} - set(drive.replicas("a")) == {evicted.replica}


def test_an_extra_one_that_still_loads_is_given_up() -> None:
    drive = hot(gib=5)
    taught(drive, 5.0)
    for _ in range(4):
        drive.ask("a")
    drive.sleep(1)
    _, extra = drive.replicas("a")
    drive.ask("b")
    assert [stop.replica for stop in drive.stopped] == [extra]
    drive.exit(replica=extra)
    assert drive.starts() == ["a", "a", "b"]


@pytest.mark.parametrize("least", [0, 1, 2])
def test_an_extra_load_that_nobody_waits_for_any_more_is_given_up(least: int) -> None:
    a = replace(cpu_model("a"), min_replicas=least, max_replicas=3)
    drive = Drive([a], policy=Policy())
    taught(drive, 1.0)
    for _ in range(least - 1):
        drive.load("a")
        drive.ready("a")
    tickets = [drive.ask("a") for _ in range(12)]
    drive.sleep(0.5)
    (extra,) = drive.replicas("a", ReplicaState.STARTING)
    for ticket in tickets:
        drive.leave(ticket)
    assert [stop.replica for stop in drive.stopped] == [extra]


def test_an_extra_load_whose_line_has_been_served_is_finished() -> None:
    drive = hot()
    taught(drive, 1.0)
    tickets = [drive.ask("a") for _ in range(8)]
    drive.sleep(1)
    for ticket in tickets:
        drive.end(ticket)
    assert drive.starts() == ["a", "a"]
    assert not drive.stopped


def test_one_that_idles_leaves_and_the_last_one_stays() -> None:
    drive = hot()
    tickets = grown(drive)
    for ticket in tickets:
        drive.end(ticket)
    drive.sleep(31)
    assert [stop.reason for stop in drive.stopped] == ["idle"]
    drive.exit(replica=drive.stopped[0].replica)
    drive.sleep(3600)
    assert len(drive.replicas("a", ReplicaState.READY)) == 1
    assert drive.starts() == ["a", "a"]


def test_pinned_protects_the_base_and_not_the_extra_one() -> None:
    drive = hot(gib=5, pinned=True)
    tickets = grown(drive)
    for ticket in tickets:
        drive.end(ticket)
    drive.ask("b")
    assert [(evicted.model, evicted.for_model) for evicted in drive.evicted] == [("a", "b")]
    drive.exit(replica=drive.stopped[0].replica)
    assert drive.starts()[-1] == "b"


# -- kept -------------------------------------------------------------------------------------------------------------


def kept(least: int, most: int = 3, *, gib: float = 4, idle_timeout: float | None = 5.0) -> Drive:
    a = replace(cpu_model("a", gib, idle_timeout=idle_timeout), min_replicas=least, max_replicas=most)
    drive = Drive([a, cpu_model("b", 10)])
    drive.observe()
    return drive


def test_those_that_are_kept_come_by_themselves_and_stay() -> None:
    drive = kept(2)
    assert drive.starts() == ["a", "a"]
    drive.ready("a")
    drive.ready("a")
    drive.sleep(3600)
    assert len(drive.replicas("a", ReplicaState.READY)) == 2
    assert not drive.stopped


def test_one_that_is_kept_comes_back_after_a_crash() -> None:
    drive = kept(1, 1)
    drive.ready("a")
    drive.sleep(60)
    drive.exit("a", "killed")
    assert drive.starts() == ["a", "a"]


def test_one_that_keeps_failing_is_given_up() -> None:
    drive = kept(1, 1)
    for _ in range(5):
        drive.exit("a", "no such file")
        drive.sleep(100)
    assert drive.starts() == ["a"] * 5
    assert drive.status("a") is Status.FAILED


def test_an_idle_one_that_is_kept_gives_way_to_a_claim_that_is_due() -> None:
    drive = kept(2)
    drive.ready("a")
    drive.ready("a")
    drive.sleep(60)
    drive.ask("b")
    drive.sleep(9.9)
    assert not drive.evicted
    drive.sleep(0.2)
    assert [evicted.model for evicted in drive.evicted] == ["a"]


def test_one_that_gave_way_comes_back_when_memory_is_idle_and_not_before() -> None:
    drive = kept(2)
    drive.ready("a")
    drive.ready("a")
    ticket = drive.ask("b", Priority.HIGH)
    drive.sleep(30)
    drive.exit(replica=drive.evicted[0].replica)
    drive.ready("b")
    drive.end(ticket)
    drive.sleep(600)
    assert drive.starts() == ["a", "a", "b"]
    assert "1 of 2 replica(s) (min_replicas): needs 4,096 MiB" in drive.scheduler.view("a", drive.now).reason
    drive.eject("b")
    drive.exit("b")
    assert drive.starts() == ["a", "a", "b", "a"]


def test_one_that_is_kept_does_not_go_for_a_load_that_ran_out_of_memory() -> None:
    drive = kept(1, gib=2)
    drive.ready("a")
    drive.ask("b")
    drive.exit("b", exhausted=Exhaustion(DeviceKind.HOST))
    assert drive.starts() == ["a", "b", "b"]
    assert not drive.evicted


def test_an_operator_may_load_another_in_place_of_one_that_is_kept() -> None:
    drive = kept(2)
    drive.ready("a")
    drive.ready("a")
    drive.load("b")
    assert [evicted.for_model for evicted in drive.evicted] == ["b"]


def test_what_was_ejected_stays_away_until_somebody_asks() -> None:
    drive = kept(2)
    drive.ready("a")
    drive.ready("a")
    drive.eject("a")
    for replica in drive.replicas("a"):
        drive.exit(replica=replica)
    drive.sleep(600)
    assert drive.starts() == ["a", "a"]
    drive.ask("a")
    drive.observe()
    assert drive.starts() == ["a", "a", "a", "a"]


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_load_that_fails_beside_another_harms_nobody_and_is_tried_later() -> None:
    drive = hot()
    taught(drive, 5.0)
    tickets = [drive.ask("a") for _ in range(6)]
    drive.sleep(0.6)
    for attempt in range(1, 6):
        assert drive.starts() == ["a"] * (1 + attempt)
        drive.exit(replica=drive.replicas("a")[-1], exhausted=Exhaustion(DeviceKind.HOST))
        assert drive.status("a") is Status.READY
        drive.sleep(2.0 ** (attempt - 1) - 0.1)
        assert drive.starts() == ["a"] * (1 + attempt)
        drive.sleep(0.2)
    drive.sleep(60)
    assert len(drive.starts()) == 6, "given up for ten minutes"
    assert not drive.rejected
    assert tickets[0] in drive.granted
    drive.reset("a")
    assert len(drive.starts()) == 7


def test_a_crash_beside_another_sends_what_ran_there_back_to_the_line() -> None:
    drive = hot()
    _, running, *waiting = grown(drive)
    one, two = drive.replicas("a")
    drive.sleep(60)
    drive.exit(replica=one)
    assert drive.status("a") is Status.READY
    assert drive.scheduler.view("a", drive.now).restarts == 1
    drive.end(running)
    assert drive.granted[waiting[0]].replica == two
    assert not drive.rejected


def test_an_early_crash_beside_another_pauses_growth_and_not_the_model() -> None:
    drive = hot()
    grown(drive)
    _, two = drive.replicas("a")
    drive.exit(replica=two)
    assert drive.status("a") is Status.READY
    assert drive.scheduler.view("a", drive.now).retry_at is None
    assert drive.starts() == ["a", "a"]
    drive.sleep(1.1)
    assert drive.starts() == ["a", "a", "a"]


# -- which of them ----------------------------------------------------------------------------------------------------

STORY = b"Once upon a time there was a token that nobody wanted to read a second time. " * 10


def test_a_follow_up_goes_to_the_replica_that_knows_its_beginning() -> None:
    drive = hot(slots=2)
    for ticket in grown(drive):
        drive.end(ticket)
    one, two = drive.replicas("a")
    held = drive.ask("a")  # so that the next finds the other one less busy
    assert drive.granted[held].replica == one
    told = drive.ask("a", marks=marks_of(STORY))
    assert drive.granted[told].replica == two
    drive.end(told)
    drive.end(held)
    for _ in range(3):
        follow_up = drive.ask("a", marks=marks_of(STORY + b"and so on " * 50))
        assert drive.granted[follow_up].replica == two
        drive.end(follow_up)
    other = drive.ask("a", marks=marks_of(b"Another" + STORY))
    assert drive.granted[other].replica == one


def test_a_follow_up_does_not_wait_for_the_one_that_knows_it() -> None:
    drive = hot()
    first, second, *rest = grown(drive)
    for ticket in (first, second, *rest):
        drive.end(ticket)
    told = drive.ask("a", marks=marks_of(STORY))
    follow_up = drive.ask("a", marks=marks_of(STORY))
    assert drive.granted[follow_up].replica != drive.granted[told].replica


def test_the_first_of_a_line_takes_any_replica_before_a_later_one_that_is_known_there() -> None:
    drive = hot()
    for ticket in grown(drive):
        drive.end(ticket)
    told = drive.ask("a", marks=marks_of(STORY))
    drive.ask("a")
    stranger, friend = drive.ask("a"), drive.ask("a", marks=marks_of(STORY))
    drive.end(told)
    assert drive.granted[stranger].replica == drive.granted[told].replica
    assert friend not in drive.granted


def test_a_text_that_goes_on_has_the_marks_of_its_beginning() -> None:
    marks = marks_of(STORY)
    assert len(marks) == len(STORY) // 256
    assert marks_of(STORY + b"more" * 100)[: len(marks)] == marks
    assert marks_of(b"x" + STORY)[0] != marks[0]
    assert marks_of(b"short") == ()
    assert len(marks_of(bytes(10**6))) == 256


def test_the_deepest_mark_counts_and_the_oldest_is_forgotten() -> None:
    known = Known()
    known.note(())
    assert known.depth((1, 2, 3)) == 0
    known.note((1, 2))
    assert known.depth((1, 2, 3)) == 2
    assert known.depth((1,)) == 0
    for mark in range(1000, 1255):
        known.note((mark,))
    assert known.depth((1, 2)) == 2
    known.note((9999,))
    assert known.depth((1, 2)) == 0
