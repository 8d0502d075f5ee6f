"""The scheduler's decisions, one story each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.core.commands import RejectCode
from router.core.types import HOST, DeviceReading, Need, Policy, Priority, Status
from tests.support.drive import GIB, Drive, cpu_model, gpu, gpu_model, host


def test_many_first_requests_start_one_child() -> None:
    drive = Drive([cpu_model("a", slots=4)])
    tickets = [drive.ask("a") for _ in range(20)]
    assert drive.starts() == ["a"]
    assert drive.status("a") is Status.LOADING
    drive.ready("a")
    assert set(drive.granted) == set(tickets[:4])
    for ticket in tickets:
        drive.end(ticket)
    assert len(drive.granted) == 20
    assert drive.starts() == ["a"]


def test_a_free_slot_is_granted_at_once() -> None:
    drive = Drive([cpu_model("a", slots=2)])
    drive.rest("a")
    ticket = drive.ask("a")
    assert drive.granted[ticket].replica == drive.replica("a")


def test_a_replica_never_gets_more_than_its_slots() -> None:
    drive = Drive([cpu_model("a")])
    first = drive.serve("a")
    second = drive.ask("a")
    assert second not in drive.granted
    drive.end(first)
    assert second in drive.granted


def test_the_child_says_how_many_slots_it_has() -> None:
    drive = Drive([cpu_model("a", slots=1)])
    tickets = [drive.ask("a") for _ in range(3)]
    drive.ready("a", slots=2)
    assert set(drive.granted) == set(tickets[:2])


def test_classes_go_first_and_each_class_is_first_come_first_served() -> None:
    drive = Drive([cpu_model("a")])
    running = drive.serve("a")
    low, normal, high, high2 = (
        drive.ask("a", priority) for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.HIGH)
    )
    order = [running]
    for _ in range(4):
        drive.end(order[-1])
        order.append(next(ticket for ticket in drive.granted if ticket not in order))
    assert order[1:] == [high, high2, normal, low]


def test_a_low_request_that_has_waited_long_enough_is_not_overtaken() -> None:
    drive = Drive([cpu_model("a")])
    running = drive.serve("a")
    low = drive.ask("a", Priority.LOW)
    drive.sleep(61)
    high = drive.ask("a", Priority.HIGH)
    drive.end(running)
    assert low in drive.granted
    assert high not in drive.granted


def test_a_full_queue_refuses_with_advice() -> None:
    drive = Drive([cpu_model("a")], policy=Policy(max_queue=2))
    for _ in range(2):
        drive.ask("a")
    third = drive.ask("a")
    assert drive.rejected[third].code is RejectCode.QUEUE_FULL
    assert drive.rejected[third].retry_after


def test_a_waiter_gives_up_at_its_deadline_and_the_load_goes_on() -> None:
    drive = Drive([cpu_model("a")])
    ticket = drive.ask("a", timeout=5)
    drive.sleep(5)
    assert drive.rejected[ticket].code is RejectCode.TIMEOUT
    assert drive.status("a") is Status.LOADING
    drive.ready("a")
    assert drive.status("a") is Status.READY


def test_a_client_that_leaves_is_never_granted() -> None:
    drive = Drive([cpu_model("a")])
    first, second, third = (drive.ask("a") for _ in range(3))
    drive.leave(second)
    drive.ready("a")
    drive.end(first)
    assert third in drive.granted
    assert second not in drive.granted


def test_the_count_of_models_is_kept_by_evicting_the_least_recently_used() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b"), cpu_model("c")], policy=Policy(max_models=2))
    drive.rest("a")
    drive.sleep(1)
    drive.rest("b")
    drive.sleep(1)
    drive.ask("c")
    assert [stop.model for stop in drive.stopped] == ["a"]
    assert [(e.model, e.for_model) for e in drive.evicted] == [("a", "c")]
    drive.exit("a")
    assert drive.starts() == ["a", "b", "c"]
    assert drive.status("b") is Status.READY


def test_memory_is_made_by_evicting_no_more_than_needed() -> None:
    specs = [cpu_model("a", 2), cpu_model("b", 6), cpu_model("c", 6), cpu_model("big", 8)]
    drive = Drive(specs, policy=Policy(max_models=9))
    for name in "abc":
        drive.rest(name)
        drive.sleep(1)
    drive.ask("big")
    assert [stop.model for stop in drive.stopped] == ["b"]


def test_one_that_is_generating_is_never_cut() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=Policy(max_models=1))
    running = drive.serve("a")
    drive.ask("b")
    drive.sleep(200)
    assert not drive.stopped
    assert drive.status("a") is Status.DRAINING
    drive.end(running)
    assert [(stop.model, stop.force) for stop in drive.stopped] == [("a", False)]


def test_a_hot_model_gives_way_once_the_other_is_due() -> None:
    drive = Drive([cpu_model("hot"), cpu_model("cold")], policy=Policy(max_models=1))
    running = drive.serve("hot")
    cold = drive.ask("cold")
    waiting = drive.ask("hot")
    drive.sleep(9)
    drive.end(running)
    assert waiting in drive.granted, "the resident model serves its queue until the other is due"
    late = drive.ask("hot")
    drive.sleep(2)
    drive.end(waiting)
    assert late not in drive.granted
    drive.exit("hot")
    drive.ready("cold")
    assert cold in drive.granted


def test_on_ready_the_waiters_are_granted_before_any_eviction() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=Policy(max_models=1))
    first = drive.ask("a")
    drive.ask("b", Priority.HIGH)
    drive.sleep(100)
    drive.ready("a")
    assert first in drive.granted
    assert drive.status("a") is Status.READY, "it has just become resident and has work"


def test_a_victim_returns_when_nobody_wants_its_place_any_more() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=Policy(max_models=1))
    drive.serve("a")
    ticket = drive.ask("b")
    drive.sleep(60)
    assert drive.status("a") is Status.DRAINING
    drive.leave(ticket)
    assert drive.status("a") is Status.READY


def test_a_model_that_can_never_fit_is_refused_with_the_arithmetic() -> None:
    drive = Drive([cpu_model("huge", 64)])
    ticket = drive.ask("huge")
    assert drive.rejected[ticket].code is RejectCode.TOO_LARGE
    assert "65536" in drive.rejected[ticket].message.replace(",", "")
    view = drive.scheduler.view("huge", drive.now)
    assert (view.status, view.misfit, view.retry_at) == (Status.FAILED, True, None)
    assert "can never fit" in view.reason
    again = drive.ask("huge")
    assert drive.rejected[again].code is RejectCode.TOO_LARGE, "nobody has to reset it"
    drive.reset("huge")
    assert drive.status("huge") is Status.OFF
    assert drive.scheduler.view("huge", drive.now).reason == ""


def test_idle_models_unload() -> None:
    drive = Drive([cpu_model("a", idle_timeout=300)])
    drive.rest("a")
    drive.sleep(299)
    assert not drive.stopped
    drive.sleep(2)
    assert [stop.reason for stop in drive.stopped] == ["idle"]
    drive.exit("a")
    assert drive.status("a") is Status.OFF


def test_a_failed_load_turns_its_waiters_away_and_is_not_repeated_for_each_request() -> None:
    drive = Drive([cpu_model("a")])
    tickets = [drive.ask("a") for _ in range(3)]
    drive.exit("a", "corrupted file")
    assert all(drive.rejected[t].code is RejectCode.LOAD_FAILED for t in tickets)
    assert "corrupted file" in drive.rejected[tickets[0]].message
    assert drive.status("a") is Status.FAILED
    again = drive.ask("a")
    assert drive.rejected[again].code is RejectCode.BACKING_OFF
    assert drive.starts() == ["a"]
    drive.sleep(2)
    drive.ask("a")
    assert drive.starts() == ["a", "a"]


def test_after_five_failures_only_a_reset_helps() -> None:
    drive = Drive([cpu_model("a")])
    for _ in range(5):
        drive.ask("a")
        drive.exit("a", "broken")
        drive.sleep(20)
    ticket = drive.ask("a")
    assert drive.rejected[ticket].code is RejectCode.FAILED
    drive.sleep(3600)
    assert drive.rejected[drive.ask("a")].code is RejectCode.FAILED
    drive.reset("a")
    drive.ask("a")
    assert len(drive.started) == 6


def test_a_crash_after_the_grace_period_restarts_at_once_and_keeps_the_waiters() -> None:
    drive = Drive([cpu_model("a")])
    drive.serve("a")
    waiting = drive.ask("a")
    drive.sleep(11)
    drive.exit("a", "killed")
    assert drive.starts() == ["a", "a"]
    drive.ready("a")
    assert waiting in drive.granted
    assert drive.scheduler.view("a", drive.now).restarts == 1


def test_an_early_crash_backs_off_and_keeps_the_waiters() -> None:
    drive = Drive([cpu_model("a")])
    drive.serve("a")
    waiting = drive.ask("a")
    drive.exit("a", "killed")
    assert drive.starts() == ["a"]
    drive.sleep(1.5)
    assert drive.starts() == ["a", "a"]
    drive.ready("a")
    assert waiting in drive.granted


def test_an_idle_model_that_crashes_comes_back_too() -> None:
    drive = Drive([cpu_model("a")])
    drive.rest("a")
    drive.sleep(11)
    drive.exit("a", "killed")
    assert drive.starts() == ["a", "a"]


def test_late_events_of_a_dead_replica_fall_on_the_floor() -> None:
    drive = Drive([cpu_model("a")])
    ticket = drive.serve("a")
    dead = drive.replica("a")
    drive.sleep(11)
    drive.exit("a")
    drive.ready("a")
    before = len(drive.granted)
    assert drive.scheduler.end(drive.lease(ticket), drive.now) == []
    assert drive.scheduler.replica_ready(dead, 1, drive.now, readings=(), usage={}) == []
    assert drive.scheduler.replica_exited(dead, "again", drive.now) == []
    assert len(drive.granted) == before


def test_memory_stays_booked_until_it_is_seen_free() -> None:
    drive = Drive([cpu_model("a", 10), cpu_model("b", 10)])
    drive.rest("a")
    drive.ask("b")
    drive.exit("a", reclaim=False)
    assert drive.starts() == ["a"]
    drive.reclaim(drive.replica("a"))
    assert drive.starts() == ["a", "b"]


def test_eject_drains_and_force_cuts() -> None:
    drive = Drive([cpu_model("a")])
    running = drive.serve("a")
    drive.eject("a")
    assert drive.status("a") is Status.DRAINING
    assert not drive.stopped
    waiting = drive.ask("a")
    drive.eject("a", force=True)
    assert drive.rejected[waiting].code is RejectCode.EJECTED
    assert [stop.force for stop in drive.stopped] == [True]
    drive.end(running)
    drive.exit("a")
    assert drive.status("a") is Status.OFF


def test_preloading_never_evicts_but_an_operator_may() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=Policy(max_models=1))
    drive.rest("a")
    drive.load("b", evict=False)
    assert not drive.stopped
    drive.load("b")
    assert [stop.model for stop in drive.stopped] == ["a"]
    drive.exit("a")
    assert drive.status("b") is Status.LOADING


def test_loads_on_one_gpu_follow_each_other_and_on_two_run_side_by_side() -> None:
    drive = Drive([gpu_model("a"), gpu_model("b")], devices=[host(), gpu(0)])
    drive.ask("a")
    drive.ask("b")
    assert drive.starts() == ["a"]
    drive.ready("a")
    assert drive.starts() == ["a", "b"]

    drive = Drive([gpu_model("a", 12), gpu_model("b", 12)], devices=[host(), gpu(0), gpu(1)])
    drive.ask("a")
    drive.ask("b")
    assert drive.starts() == ["a", "b"]


def test_a_load_that_never_ends_keeps_others_off_its_gpu_for_a_limited_time() -> None:
    drive = Drive([gpu_model("a"), gpu_model("b")], devices=[host(), gpu(0)])
    drive.ask("a")
    drive.ask("b")
    drive.sleep(31)
    assert drive.starts() == ["a", "b"]


def test_what_was_seen_replaces_the_estimate() -> None:
    drive = Drive([cpu_model("a", 8), cpu_model("b", 12)])
    drive.ask("a")
    usage = {drive.replica("a"): {HOST: 2 * GIB}}
    reading = DeviceReading(HOST, 16 * GIB, 2 * GIB, 14 * GIB)
    drive.take(drive.scheduler.memory_observed([reading], usage, drive.now))
    drive.ready("a")
    view = drive.scheduler.view("a", drive.now)
    assert view.booked == {HOST: 2 * GIB}
    assert (view.estimate.host, view.estimate.source) == (2 * GIB, "observed")
    drive.ask("b")
    assert drive.starts() == ["a", "b"]


def test_what_a_child_announces_is_booked_before_it_is_allocated() -> None:
    drive = Drive([gpu_model("a", 8), gpu_model("b", 8)], devices=[host(), gpu(0, 24)])
    drive.ask("a")
    replica = drive.replica("a")
    drive.take(drive.scheduler.replica_projected(replica, 18 * GIB, GIB, drive.now))
    view = drive.scheduler.view("a", drive.now)
    assert view.estimate.source == "projected"
    assert 18 * GIB < view.booked["gpu:0"] == view.estimate.gpu < 19 * GIB
    assert view.booked[HOST] == view.estimate.host > GIB
    drive.ask("b")
    drive.sleep(31)  # the load no longer keeps others off the GPU
    assert drive.starts() == ["a"], "b has no room beside it"
    assert not drive.scheduler.replica_projected(replica, 18 * GIB, GIB, drive.now), "no news"


def test_what_was_seen_counts_more_than_what_a_child_announces() -> None:
    drive = Drive([cpu_model("a", 8)])
    drive.usage = {HOST: 2 * GIB}
    drive.rest("a")
    drive.eject("a")
    drive.exit("a")
    drive.ask("a")
    assert not drive.scheduler.replica_projected(drive.replica("a"), 0, 4 * GIB, drive.now)
    assert drive.scheduler.view("a", drive.now).estimate.source == "observed"


def test_what_is_foreseen_stays_booked_until_the_model_has_worked() -> None:
    spec = replace(cpu_model("a"), need=Need(0, 3 * GIB, source="formula"))
    drive = Drive([spec])
    drive.usage = {HOST: 2 * GIB}
    drive.rest("a")
    view = drive.scheduler.view("a", drive.now)
    assert view.booked == {HOST: 3 * GIB}, "its buffers are there but have not been touched"
    assert view.estimate == spec.need
    drive.sleep(1)
    drive.end(drive.serve("a"))
    drive.eject("a")
    drive.exit("a")
    assert drive.scheduler.view("a", drive.now).estimate == Need(0, 2 * GIB, source="observed")


def test_a_prompt_cache_that_was_seen_is_not_booked_again() -> None:
    spec = replace(cpu_model("a"), need=Need(0, 3 * GIB, GIB, source="formula", base=3 * GIB))
    drive = Drive([spec])
    drive.usage = {HOST: 2 * GIB}
    drive.rest("a")
    drive.sleep(1)
    drive.end(drive.serve("a"))
    drive.observe({HOST: 7 * GIB // 2}, of="a")
    assert drive.need("a") == Need(0, 7 * GIB // 2, GIB, "observed", base=3 * GIB)
    for _ in range(2):
        assert drive.scheduler.view("a", drive.now).booked == {HOST: 4 * GIB}
        drive.eject("a")
        drive.exit("a")
        drive.ask("a")
        assert drive.started[-1].placement.bytes == {HOST: 4 * GIB}, "a cache of half a GiB, and half a GiB to come"
        drive.ready("a")


def test_what_an_earlier_one_was_seen_to_take_stays_booked_though_the_next_has_not_touched_it_yet() -> None:
    spec = replace(cpu_model("a"), need=Need(0, 3 * GIB, GIB, source="learned", base=3 * GIB))
    drive = Drive([spec])
    drive.usage = {HOST: 2 * GIB}
    drive.rest("a")
    assert drive.scheduler.view("a", drive.now).booked == {HOST: 4 * GIB}


def test_what_a_model_holds_before_it_has_worked_is_no_prompt_cache() -> None:
    spec = replace(cpu_model("a"), need=Need(0, 3 * GIB, GIB, source="formula", base=3 * GIB))
    drive = Drive([spec])
    drive.usage = {HOST: 5 * GIB}
    drive.rest("a")
    drive.sleep(1)
    drive.end(drive.serve("a"))
    drive.observe({HOST: 11 * GIB // 2}, of="a")
    assert drive.need("a").base == 5 * GIB
    assert drive.need("a").growth == GIB // 2


def test_what_was_never_used_teaches_nothing() -> None:
    spec = replace(cpu_model("a"), need=Need(0, 3 * GIB, source="formula"))
    drive = Drive([spec])
    drive.usage = {HOST: 2 * GIB}
    drive.load("a")
    drive.ready("a")
    drive.eject("a")
    drive.exit("a")
    assert drive.scheduler.view("a", drive.now).estimate == spec.need


def test_other_processes_memory_is_respected() -> None:
    drive = Drive([cpu_model("a", 8)])
    reading = DeviceReading(HOST, 16 * GIB, 12 * GIB, 4 * GIB)
    drive.take(drive.scheduler.memory_observed([reading], {}, drive.now))
    ticket = drive.ask("a")
    assert not drive.started
    assert ticket not in drive.rejected, "it waits: the others may go"
    reading = DeviceReading(HOST, 16 * GIB, 2 * GIB, 14 * GIB)
    drive.take(drive.scheduler.memory_observed([reading], {}, drive.now))
    assert drive.starts() == ["a"]


def test_one_eviction_is_enough_though_the_last_reading_is_older_than_it() -> None:
    specs = [gpu_model(name, 8) for name in "abcd"]
    drive = Drive(specs, devices=[host(), gpu(0, 24)], policy=Policy(max_models=9))
    for name in "abc":
        drive.usage = {"gpu:0": 8 * GIB}
        drive.rest(name)
        drive.sleep(1)
    full = DeviceReading("gpu:0", 24 * GIB, 24 * GIB, 0)
    drive.take(drive.scheduler.memory_observed([full], {}, drive.now))
    drive.ask("d")
    drive.readings = (DeviceReading("gpu:0", 24 * GIB, 16 * GIB, 8 * GIB),)
    drive.exit("a")
    assert [stop.model for stop in drive.stopped] == ["a"]
    assert drive.starts() == ["a", "b", "c", "d"]


def test_what_a_load_has_taken_is_not_given_away_again() -> None:
    specs = [cpu_model("a", 10), cpu_model("b", 10)]
    drive = Drive(specs, devices=[host(32)])
    others = DeviceReading(HOST, 32 * GIB, 18 * GIB, 14 * GIB)
    drive.take(drive.scheduler.memory_observed([others], {}, drive.now))
    drive.ask("a")
    drive.ask("b")
    drive.usage = {HOST: 10 * GIB}
    drive.readings = (DeviceReading(HOST, 32 * GIB, 28 * GIB, 4 * GIB),)
    drive.ready("a")
    assert drive.starts() == ["a"]


def test_a_large_model_is_not_starved_by_small_ones() -> None:
    specs = [cpu_model("large", 14), cpu_model("s1", 6), cpu_model("s2", 6), cpu_model("s3", 6)]
    drive = Drive(specs, policy=Policy(max_models=9))
    running = {name: drive.serve(name) for name in ("s1", "s2")}
    large = drive.ask("large")
    start = drive.now
    while large not in drive.granted:
        assert drive.now - start < 60, "small models take each piece that comes free"
        waiting = {name: drive.ask(name) for name in ("s1", "s2", "s3")}
        drive.sleep(1)
        for ticket in running.values():
            drive.end(ticket)
        for name, status in drive.statuses().items():
            if status is Status.STOPPING:
                drive.exit(name)
            elif status is Status.LOADING and drive.scheduler.view(name, drive.now).replica is not None:
                drive.ready(name)
        running = {name: ticket for name, ticket in waiting.items() if ticket in drive.granted}


def test_ejecting_a_model_frees_those_that_made_room_for_it() -> None:
    drive = Drive([cpu_model("a", slots=2), cpu_model("b")], policy=Policy(max_models=1))
    drive.serve("a")
    drive.ask("b")
    drive.sleep(60)
    assert drive.status("a") is Status.DRAINING
    drive.eject("b", force=True)
    assert drive.status("a") is Status.READY
    assert drive.ask("a") in drive.granted


def test_a_load_while_it_drains_keeps_the_model() -> None:
    drive = Drive([cpu_model("a")])
    running = drive.serve("a")
    drive.eject("a")
    drive.load("a")
    assert drive.status("a") is Status.READY
    drive.end(running)
    assert not drive.stopped


def test_nothing_is_loaded_for_nobody() -> None:
    drive = Drive([gpu_model("a"), gpu_model("b")], devices=[host(), gpu(0)])
    drive.ask("a")
    ticket = drive.ask("b")
    drive.leave(ticket)
    drive.ready("a")
    assert drive.starts() == ["a"]
    assert drive.status("b") is Status.OFF


def test_a_resident_that_has_had_its_turn_yields_even_with_an_urgent_request() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=Policy(max_models=1))
    first = drive.serve("a")
    urgent = drive.ask("a", Priority.HIGH)
    drive.ask("b")
    drive.sleep(9)
    assert drive.status("a") is Status.READY, "b is not due yet"
    drive.sleep(2)
    drive.end(first)
    assert urgent not in drive.granted, "else whoever always has something urgent would never yield"
    drive.exit("a")
    assert drive.starts() == ["a", "b"]


def test_closing_turns_waiters_away_and_lets_leases_end() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")])
    running = drive.serve("a")
    waiting = drive.ask("a")
    drive.ask("b")
    drive.take(drive.scheduler.close(drive.now))
    assert drive.rejected[waiting].code is RejectCode.SHUTTING_DOWN
    assert [(stop.model, stop.force) for stop in drive.stopped] == [("b", True)]
    drive.end(running)
    assert [stop.model for stop in drive.stopped] == ["b", "a"]
    late = drive.ask("a")
    assert drive.rejected[late].code is RejectCode.SHUTTING_DOWN


def test_a_load_that_an_operator_asked_for_is_tried_once() -> None:
    drive = Drive([cpu_model("a")])
    drive.load("a")
    drive.exit("a", "broken")
    drive.sleep(600)
    assert drive.starts() == ["a"]
    assert drive.status("a") is Status.FAILED
    drive.reset("a")
    assert drive.status("a") is Status.OFF


def test_a_restart_is_tried_again_until_the_model_is_given_up() -> None:
    drive = Drive([cpu_model("a")])
    drive.rest("a")
    drive.sleep(11)
    drive.exit("a", "killed")
    for _ in range(5):
        drive.exit("a", "no memory yet")
        drive.sleep(20)
    assert len(drive.started) == 6
    assert drive.status("a") is Status.FAILED


def test_a_model_that_waits_for_room_is_loading_and_says_why() -> None:
    drive = Drive([cpu_model("a"), cpu_model("b")], policy=Policy(max_models=1))
    drive.serve("a")
    ticket = drive.ask("b")
    assert drive.status("b") is Status.LOADING
    assert drive.scheduler.view("b", drive.now).reason == "waits for room"
    assert drive.scheduler.view("b", drive.now).shortage == "", "it waits for a place, not for memory"
    drive.leave(ticket)
    assert drive.status("b") is Status.OFF


@pytest.mark.parametrize("priority", list(Priority))
def test_nobody_starves_behind_a_hot_model(priority: Priority) -> None:
    drive = Drive([cpu_model("hot"), cpu_model("cold")], policy=Policy(max_models=1))
    running = drive.serve("hot")
    cold = drive.ask("cold", priority)
    start = drive.now
    while cold not in drive.granted:
        assert drive.now - start < 70, "a closed loop on the hot model starves the cold one"
        following = drive.ask("hot")
        drive.sleep(1)
        drive.end(running)
        if drive.status("hot") is Status.STOPPING:
            drive.exit("hot")
            drive.ready("cold")
        elif following in drive.granted:
            running = following
    assert cold in drive.granted
