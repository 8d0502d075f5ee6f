"""Replicas that hold more RAM than they may are started anew, while nobody works on them."""

from __future__ import annotations

from dataclasses import replace

from router.core.records import Want
from router.core.types import HOST, DeviceKind, Exhaustion, Policy, Status
from tests.support.drive import GIB, Drive, cpu_model

LEAK = {HOST: 3 * GIB}


def grown(*, loads_for: float = 2.0, serves_for: float = 11.0) -> Drive:
    """A model of 1 GiB that may hold 2, at work after it has served for a while."""
    drive = Drive([replace(cpu_model("a"), max_rss=2 * GIB), cpu_model("b")], policy=Policy(max_models=1))
    drive.ask("a")
    drive.sleep(loads_for)
    drive.ready("a")
    drive.sleep(serves_for)
    return drive


def make_ready(drive: Drive, number: int) -> int:
    """The replica that was started as that one, from 0."""
    replica = drive.started[number].replica
    drive.take(drive.scheduler.replica_ready(replica, 1, drive.now, readings=(), usage={}))
    return replica


def test_an_idle_one_is_started_anew() -> None:
    drive = grown()
    drive.end(1)
    drive.observe({HOST: 2 * GIB}, of="a")
    assert not drive.stopped
    drive.observe(LEAK, of="a")
    assert [(stop.model, stop.force) for stop in drive.stopped] == [("a", False)]
    assert drive.recycled == [("a", 3 * GIB)]
    drive.exit("a")
    assert drive.starts() == ["a", "a"]
    assert drive.scheduler.view("a", drive.now).restarts == 0


def test_one_at_work_is_left_alone_until_its_last_request_ends() -> None:
    drive = grown()
    drive.observe(LEAK, of="a")
    waiting = drive.ask("a")
    drive.end(1)
    assert not drive.stopped, "the next one waits already"
    drive.end(waiting)
    assert [stop.model for stop in drive.stopped] == ["a"]


def test_a_limit_that_is_too_low_does_not_have_it_load_all_the_time() -> None:
    drive = grown(serves_for=9.0)
    drive.end(1)
    drive.observe(LEAK, of="a")
    assert not drive.stopped
    drive.sleep(2)
    drive.observe(LEAK, of="a")
    assert [stop.model for stop in drive.stopped] == ["a"]


def test_who_comes_meanwhile_waits_for_its_successor() -> None:
    drive = grown()
    drive.end(1)
    drive.observe(LEAK, of="a")
    waiting = drive.ask("a")
    drive.exit("a")
    drive.ready("a")
    assert waiting in drive.granted


def test_it_takes_nobodys_place() -> None:
    drive = grown()
    drive.end(1)
    drive.observe(LEAK, of="a")
    drive.ask("b")
    drive.exit("a")
    assert drive.starts() == ["a", "b"]


def test_beside_another_replica_nothing_is_wanted_in_its_place() -> None:
    spec = replace(cpu_model("a"), max_rss=2 * GIB, min_replicas=2, max_replicas=2, idle_timeout=None)
    drive = Drive([spec])
    drive.load("a")
    drive.sleep(1)
    first = make_ready(drive, 0)
    make_ready(drive, 1)
    drive.sleep(30)
    drive.take(drive.scheduler.memory_observed((), {first: LEAK}, drive.now))
    assert [stop.replica for stop in drive.stopped] == [first]
    assert drive.scheduler._models["a"].want is Want.NO


def test_all_of_them_are_started_anew_one_after_the_other() -> None:
    spec = replace(cpu_model("a"), max_rss=2 * GIB, min_replicas=2, max_replicas=2, idle_timeout=None)
    drive = Drive([spec])
    drive.load("a")
    first, second = make_ready(drive, 0), make_ready(drive, 1)
    drive.sleep(30)

    def observe(*replicas: int) -> list[int]:
        drive.take(drive.scheduler.memory_observed((), dict.fromkeys(replicas, LEAK), drive.now))
        return [stop.replica for stop in drive.stopped]

    assert observe(first, second) == [first], "the other one serves meanwhile"
    drive.take(drive.scheduler.replica_exited(first, "stopped", drive.now))
    drive.take(drive.scheduler.replica_reclaimed(first, drive.now, readings=()))
    assert observe(second) == [first], "its successor loads"
    make_ready(drive, 2)
    assert observe(second) == [first, second]


def test_without_a_limit_it_may_grow() -> None:
    drive = Drive([cpu_model("a")])
    drive.rest("a")
    drive.sleep(3600)
    drive.observe({HOST: 9 * GIB}, of="a")
    assert drive.status("a") is Status.READY


def test_one_that_was_killed_for_its_memory_is_booked_for_more() -> None:
    drive = Drive([cpu_model("a", 4)])
    drive.rest("a")
    drive.observe({HOST: 5 * GIB}, of="a")
    drive.sleep(11)
    drive.exit("a", "was killed", exhausted=Exhaustion(DeviceKind.HOST))
    assert drive.need("a").host == 5 * GIB * 5 // 4
    assert drive.starts() == ["a", "a"]
