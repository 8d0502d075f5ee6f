"""A new configuration while models run: who is disturbed by it, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.core.commands import RejectCode
from router.core.lifecycle import ReplicaState
from router.core.types import HOST, Need, Policy, Priority, Status
from tests.support.drive import GIB, Drive, cpu_model


def test_what_is_not_changed_runs_on() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")])
    running, waiting = drive.serve("a"), drive.ask("a")
    before = drive.replica("a")
    drive.configure(cpu_model("a"), cpu_model("b"), cpu_model("new"))
    assert (drive.replica("a"), drive.status("a"), drive.status("new")) == (before, Status.READY, Status.OFF)
    drive.end(running)
    assert waiting in drive.granted
    assert drive.stopped == []


def test_a_new_model_can_be_asked_for() -> None:
    drive = Drive([cpu_model("a")])
    drive.configure(cpu_model("a"), cpu_model("new"))
    assert drive.serve("new") in drive.granted


def test_a_changed_model_drains_and_comes_back_for_those_who_wait() -> None:
    drive = Drive([cpu_model("a")])
    running, waiting = drive.serve("a"), drive.ask("a")
    old = drive.replica("a")
    drive.configure(cpu_model("a", slots=2), changed=["a"])
    later = drive.ask("a")
    assert (drive.status("a"), drive.stopped) == (Status.DRAINING, [])
    drive.end(running)
    assert [stop.replica for stop in drive.stopped] == [old]
    assert not drive.stopped[0].keep
    assert {waiting, later}.isdisjoint(drive.granted)
    drive.exit("a")
    drive.ready("a")
    assert drive.replica("a") != old
    assert {drive.granted[ticket].replica for ticket in (waiting, later)} == {drive.replica("a")}


def test_a_changed_model_that_idles_in_memory_comes_back_at_once() -> None:
    drive = Drive([cpu_model("a"), cpu_model("off")])
    drive.rest("a")
    drive.configure(cpu_model("a"), cpu_model("off"), changed=["a", "off"])
    drive.exit("a")
    assert drive.starts() == ["a", "a"]
    drive.ready("a")
    assert drive.status("a") is Status.READY


def test_a_changed_model_that_is_loading_is_loaded_anew() -> None:
    drive = Drive([cpu_model("a")])
    waiting = drive.ask("a")
    drive.configure(cpu_model("a"), changed=["a"])
    assert drive.stopped[0].force, "what was loading is of no use"
    drive.exit("a")
    drive.ready("a")
    assert waiting in drive.granted


def test_a_changed_model_that_makes_room_for_another_does_not_come_back_by_itself() -> None:
    drive = Drive([cpu_model("a", 9), cpu_model("b", 9)])
    drive.rest("a")
    drive.sleep(60)
    drive.ask("b")
    drive.configure(cpu_model("a", 9), cpu_model("b", 9), changed=["a"])
    drive.exit("a")
    drive.ready("b")
    assert drive.starts() == ["a", "b"]


def test_an_operator_cannot_call_back_what_is_configured_otherwise() -> None:
    drive = Drive([cpu_model("a")])
    running, old = drive.serve("a"), drive.replica("a")
    drive.configure(cpu_model("a"), changed=["a"])
    drive.load("a")
    assert drive.status("a") is Status.DRAINING
    drive.end(running)
    drive.exit("a")
    drive.ready("a")
    assert drive.replica("a") != old


@pytest.mark.parametrize("failures", [1, 5], ids=["backing off", "failed"])
def test_a_change_forgets_failures(failures: int) -> None:
    drive = Drive([cpu_model("a")])
    for _ in range(failures):
        drive.ask("a")
        drive.exit("a", "broken")
        drive.sleep(20)
    assert drive.status("a") is Status.FAILED
    drive.configure(cpu_model("a"))
    assert drive.status("a") is Status.FAILED, "what is not changed fails as before"
    drive.configure(cpu_model("a"), changed=["a"])
    assert drive.status("a") is Status.OFF
    assert drive.serve("a") in drive.granted


def test_a_change_may_make_a_model_fit() -> None:
    drive = Drive([cpu_model("a", 999)])
    assert drive.ask("a") in drive.rejected
    assert "cannot fit" in drive.scheduler.view("a", drive.now).reason
    drive.configure(cpu_model("a", 1), changed=["a"])
    assert (drive.status("a"), drive.scheduler.view("a", drive.now).reason) == (Status.OFF, "")


def test_a_removed_model_turns_its_waiters_away_and_drains() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")])
    running, waiting = drive.serve("a"), drive.ask("a")
    drive.configure(cpu_model("b"))
    assert drive.rejected[waiting].code is RejectCode.REMOVED
    assert "'a'" in drive.rejected[waiting].message
    assert drive.scheduler.former() == ("a",)
    assert drive.scheduler.view("a", drive.now).status is Status.DRAINING
    late = drive.ask("a")
    assert drive.rejected[late].code is RejectCode.REMOVED
    drive.end(running)
    drive.exit("a")
    assert drive.scheduler.former() == ()
    assert drive.scheduler.devices()[0].booked == 0


def test_a_removed_model_may_come_back_while_it_drains() -> None:
    drive = Drive([cpu_model("a")])
    running, old = drive.serve("a"), drive.replica("a")
    drive.configure()
    drive.configure(cpu_model("a"))
    waiting = drive.ask("a")
    drive.end(running)
    drive.exit("a")
    drive.ready("a")
    assert drive.granted[waiting].replica != old


def test_a_removed_model_that_failed_is_not_tried_again() -> None:
    drive = Drive([cpu_model("a")])
    drive.ask("a")
    drive.exit("a", "broken")
    drive.configure()
    drive.sleep(600)
    assert drive.starts() == ["a"]
    drive.configure(cpu_model("a"))
    assert drive.serve("a") in drive.granted


def test_what_a_stale_replica_takes_is_no_lesson() -> None:
    drive = Drive([cpu_model("a", 1)])
    drive.usage = {HOST: 3 * GIB}
    running = drive.serve("a")
    drive.configure(cpu_model("a", 2), changed=["a"])
    drive.observe({HOST: 4 * GIB}, of="a")
    drive.end(running)
    drive.exit("a")
    assert drive.need("a") == cpu_model("a", 2).need


def test_what_was_learned_stands_when_only_rules_change() -> None:
    drive = Drive([cpu_model("a", 1), cpu_model("b", 1)])
    drive.usage = {HOST: 3 * GIB}
    drive.rest("a")
    learned = drive.need("a")
    assert learned.source == "observed"
    other = Need(0, 2 * GIB)
    drive.configure(replace(cpu_model("a", 2), pinned=True), replace(cpu_model("b"), need=other))
    assert drive.need("a") == learned
    assert drive.need("b") == other


def test_rules_hold_at_once() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")])
    drive.rest("a")
    offsets = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 2.0}
    rules = Policy(max_queue=1, priority_offsets=offsets)
    drive.configure(cpu_model("a", idle_timeout=5), cpu_model("b"), policy=rules)
    drive.sleep(6)
    drive.exit("a")
    first, second = drive.ask("b"), drive.ask("b")
    assert drive.rejected[second].code is RejectCode.QUEUE_FULL
    assert drive.scheduler.view("b", drive.now).head_deadline == drive.now + 1
    assert first not in drive.rejected


def test_models_that_exclude_each_other_by_now_do_not_meet_again() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")])
    drive.rest("a")
    drive.configure(replace(cpu_model("a"), exclusive_with=frozenset("b")), cpu_model("b"))
    drive.sleep(60)
    drive.ask("b")
    assert drive.status("a") is Status.STOPPING
    assert drive.starts() == ["a"]


def test_the_line_is_measured_by_the_new_slots() -> None:
    drive = Drive([cpu_model("a", slots=1)])
    drive.serve("a")
    waiting = [drive.ask("a", width=4) for _ in range(2)]
    drive.configure(cpu_model("a", slots=4), changed=["a"])
    model = drive.scheduler._models["a"]
    assert model.queue.width == 8
    for ticket in waiting:
        drive.leave(ticket)
    assert model.queue.width == 0
    assert all(replica.state is ReplicaState.DRAINING for replica in drive.scheduler.replicas.values())


def test_several_replicas_are_all_replaced_as_each_comes_to_its_end() -> None:
    kept = replace(cpu_model("a"), min_replicas=2, max_replicas=4)
    drive = Drive([kept])
    drive.observe()
    assert drive.starts() == ["a", "a"]
    first, second = (start.replica for start in drive.started)
    drive.take(drive.scheduler.replica_ready(first, 1, drive.now, readings=(), usage={}))
    drive.take(drive.scheduler.replica_ready(second, 1, drive.now, readings=(), usage={}))
    running = drive.ask("a")
    drive.configure(kept, changed=["a"])
    (idle,) = (stop.replica for stop in drive.stopped)
    drive.take(drive.scheduler.replica_exited(idle, "stopped", drive.now))
    drive.reclaim(idle)
    drive.observe()
    assert drive.starts() == ["a"] * 4, "while the other still finishes what it has"
    drive.end(running)
    assert {stop.replica for stop in drive.stopped} == {first, second}


def test_a_removed_model_is_not_kept_any_more() -> None:
    kept = replace(cpu_model("a"), min_replicas=1)
    drive = Drive([kept])
    drive.observe()
    drive.ready("a")
    drive.configure()
    drive.exit("a")
    drive.observe()
    drive.sleep(60)
    assert drive.starts() == ["a"]
    drive.configure(kept)
    drive.observe()
    assert drive.starts() == ["a", "a"]


def test_a_model_is_kept_from_now_on() -> None:
    drive = Drive([cpu_model("a")])
    drive.configure(replace(cpu_model("a"), min_replicas=1))
    assert drive.starts() == ["a"]


def test_what_is_more_than_a_model_may_have_now_goes_once_it_has_finished() -> None:
    many = replace(cpu_model("a"), min_replicas=3, max_replicas=3)
    drive = Drive([many])
    drive.configure(many)
    for number in range(3):
        drive.take(drive.scheduler.replica_ready(drive.started[number].replica, 1, drive.now, readings=(), usage={}))
    running = [drive.ask("a") for _ in range(2)]
    drive.configure(replace(many, min_replicas=1, max_replicas=1))
    idle = {start.replica for start in drive.started} - {drive.granted[ticket].replica for ticket in running}
    assert {stop.replica for stop in drive.stopped} == idle
    assert len(drive.scheduler.view("a", drive.now).replicas) == 3
    for ticket in running:
        drive.end(ticket)
    assert len({stop.replica for stop in drive.stopped}) == 2, "one stays"
