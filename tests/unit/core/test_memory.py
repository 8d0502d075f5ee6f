"""How the scheduler deals with memory that is short, slow to come, cut, or spread over several GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from router.core.commands import RejectCode
from router.core.types import HOST, DeviceKind, DeviceReading, Exhaustion, ModelSpec, Need, Policy, Status
from tests.support.drive import GIB, Drive, cpu_model, gpu, gpu_model, host

RAM, VRAM = Exhaustion(DeviceKind.HOST), Exhaustion(DeviceKind.GPU)


# -- out of memory at load -------------------------------------------------------------------------------------------


def test_it_is_loaded_once_more_with_more_room_and_its_waiters_wait_on() -> None:
    drive = Drive([cpu_model("a", 4), cpu_model("idle", 2)])
    drive.rest("idle")
    ticket = drive.ask("a")
    drive.exit("a", "unable to allocate CPU buffer", exhausted=RAM)
    assert ticket not in drive.rejected
    assert drive.need("a").host == 5 * GIB
    assert drive.need("a").source == "raised"
    assert [(evicted.model, evicted.for_model) for evicted in drive.evicted] == [("idle", "a")]
    assert drive.starts() == ["idle", "a"], "it fits on paper, but waits until the idle one is really gone"
    drive.exit("idle")
    assert drive.starts() == ["idle", "a", "a"]
    drive.ready("a")
    assert ticket in drive.granted


def test_the_second_time_is_a_failure_with_the_childs_own_words() -> None:
    drive = Drive([cpu_model("a", 4)])
    ticket = drive.ask("a")
    drive.exit("a", "no memory", exhausted=RAM)
    drive.exit("a", "still no memory", exhausted=RAM)
    assert drive.rejected[ticket].code is RejectCode.LOAD_FAILED
    assert "still no memory" in drive.rejected[ticket].message
    assert drive.status("a") is Status.FAILED
    assert drive.need("a").host == 4 * GIB, "more did not help, so the old estimate stands"


def test_another_failure_of_the_second_load_also_takes_the_raise_back() -> None:
    drive = Drive([cpu_model("a", 4)])
    drive.ask("a")
    drive.exit("a", "no memory", exhausted=RAM)
    drive.exit("a", "corrupt")
    assert drive.need("a").host == 4 * GIB


def test_nobody_is_left_to_try_again_for() -> None:
    drive = Drive([cpu_model("a", 4)])
    ticket = drive.ask("a")
    drive.exit("a", "no memory", exhausted=RAM, reclaim=False)
    drive.leave(ticket)
    drive.reclaim(drive.replica("a"))
    assert drive.starts() == ["a"]


def test_only_idle_models_on_the_same_memory_go() -> None:
    models = [gpu_model("a", 4), gpu_model("busy", 4), gpu_model("idle", 4), cpu_model("ram", 1)]
    drive = Drive(models, devices=[gpu(0, 24), host(32)], policy=Policy(max_models=9))
    drive.serve("busy")
    drive.rest("idle")
    drive.rest("ram")
    drive.ask("a")
    drive.exit("a", "cudaMalloc failed", exhausted=VRAM)
    assert [evicted.model for evicted in drive.evicted] == ["idle"]


def test_a_pinned_model_stays_whoever_ran_out_of_memory() -> None:
    models = [gpu_model("a", 4), replace(gpu_model("pinned", 4), pinned=True)]
    drive = Drive(models, devices=[gpu(0, 24), host()])
    drive.rest("pinned")
    drive.ask("a")
    drive.exit("a", "cudaMalloc failed", exhausted=VRAM)
    assert drive.evicted == []
    assert drive.starts() == ["pinned", "a", "a"]


def test_what_it_asked_for_counts_if_that_is_more() -> None:
    drive = Drive([gpu_model("a", 4)], devices=[gpu(0, 24), host()])
    drive.ask("a")
    drive.exit("a", "cudaMalloc failed", exhausted=Exhaustion(DeviceKind.GPU, 9 * GIB))
    assert drive.need("a").gpu == 9 * GIB


def test_a_raise_beyond_the_gpu_leaves_the_fit_to_llama_cpp() -> None:
    drive = Drive([gpu_model("a", 20)], devices=[gpu(0, 22), host(32)])
    drive.ask("a")
    assert drive.started[0].placement.whole
    drive.exit("a", "cudaMalloc failed", exhausted=VRAM)
    assert not drive.started[1].placement.whole


def test_in_ram_it_never_wants_more_than_there_is() -> None:
    drive = Drive([cpu_model("a", 14)], devices=[host(16)])
    drive.ask("a")
    drive.exit("a", "killed", exhausted=RAM)
    assert drive.starts() == ["a", "a"]
    assert drive.need("a").host == 16 * GIB


# -- one load per GPU at a time --------------------------------------------------------------------------------------


def _two_on_one_gpu(load_seconds: float | None = None) -> Drive:
    first, second = gpu_model("a", 4), gpu_model("b", 4)
    drive = Drive([replace(first, load_seconds=load_seconds), second], devices=[gpu(0, 24), host()])
    drive.ask("a")
    drive.ask("b")
    assert drive.starts() == ["a"]
    return drive


def test_the_next_load_begins_when_the_memory_is_allocated() -> None:
    drive = _two_on_one_gpu()
    drive.allocated("a")
    assert drive.starts() == ["a", "b"]
    assert drive.status("a") is Status.LOADING


def test_the_device_shows_the_allocation_where_the_log_does_not() -> None:
    drive = _two_on_one_gpu()
    drive.readings = (DeviceReading("gpu:0", 24 * GIB, 3 * GIB, 21 * GIB),)
    drive.observe({"gpu:0": 3 * GIB}, of="a")
    assert drive.starts() == ["a"]
    drive.readings = (DeviceReading("gpu:0", 24 * GIB, 4 * GIB, 20 * GIB),)
    drive.observe({"gpu:0": 4 * GIB}, of="a")
    assert drive.starts() == ["a", "b"]


@pytest.mark.parametrize(("known", "lock"), [(None, 30), (3, 6), (40, 80)])
def test_a_child_that_never_gets_ready_keeps_nobody(known: float | None, lock: float) -> None:
    drive = _two_on_one_gpu(known)
    drive.sleep(lock - 0.5)
    assert drive.starts() == ["a"]
    drive.sleep(1)
    assert drive.starts() == ["a", "b"]


def test_how_long_a_load_takes_is_measured() -> None:
    drive = Drive([gpu_model("a", 4), gpu_model("b", 4)], devices=[gpu(0, 24), host()])
    drive.ask("a")
    drive.sleep(2)
    drive.ready("a")
    assert drive.scheduler.view("a", drive.now).load_seconds == 2


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_loads_on_different_gpus_go_side_by_side(gpus: int) -> None:
    models = [gpu_model(f"m{index}", 20) for index in range(8)]
    drive = Drive(models, devices=[*(gpu(index, 24) for index in range(gpus)), host()], policy=Policy(max_models=8))
    for model in models:
        drive.ask(model.name)
    assert len(drive.started) == gpus
    assert len({start.placement.gpus for start in drive.started}) == gpus


@pytest.mark.parametrize(("gib", "gpus"), [(20, 1), (40, 2), (100, 5), (170, 8)])
def test_a_large_model_takes_as_many_gpus_as_it_has_to(gib: float, gpus: int) -> None:
    model = ModelSpec("a", 1, Need(int(gib * GIB), 0, each=GIB))
    drive = Drive([model], devices=[*(gpu(index, 24) for index in range(8)), host()])
    drive.serve("a")
    placement = drive.started[0].placement
    assert len(placement.gpus) == gpus
    assert sum(placement.bytes.values()) == gib * GIB + (gpus - 1) * GIB


def test_a_split_model_keeps_others_off_all_of_its_gpus() -> None:
    drive = Drive([gpu_model("big", 30), gpu_model("a", 4)], devices=[gpu(0, 20), gpu(1, 20), host()])
    drive.ask("big")
    drive.ask("a")
    assert drive.starts() == ["big"]
    drive.ready("big")
    assert drive.starts() == ["big", "a"]


def test_what_others_hold_is_left_to_them_and_taken_once_they_are_gone() -> None:
    drive = Drive([gpu_model("a", 20)], devices=[gpu(0, 24), host()])
    drive.readings = (DeviceReading("gpu:0", 24 * GIB, 10 * GIB, 14 * GIB),)
    drive.observe()
    drive.ask("a")
    assert drive.starts() == []
    drive.readings = (DeviceReading("gpu:0", 24 * GIB, 0, 24 * GIB),)
    drive.observe()
    assert drive.starts() == ["a"]


# -- what is learned -------------------------------------------------------------------------------------------------


def test_what_a_split_model_shows_is_learned_as_if_it_were_on_one_gpu() -> None:
    model = ModelSpec("a", 1, Need(30 * GIB, 0, source="formula", each=2 * GIB))
    drive = Drive([model], devices=[gpu(0, 24), gpu(1, 24), host()])
    ticket = drive.serve("a")
    drive.sleep(1)
    drive.end(ticket)
    drive.observe({"gpu:0": 17 * GIB, "gpu:1": 17 * GIB}, of="a")
    assert (drive.need("a").gpu, drive.need("a").source) == (32 * GIB, "observed")


def test_a_model_that_was_cut_teaches_nothing_about_the_whole() -> None:
    model = ModelSpec("a", 1, Need(30 * GIB, GIB, source="formula"))
    drive = Drive([model], devices=[gpu(0, 24), host(32)])
    drive.ask("a")
    assert not drive.started[0].placement.whole
    replica = drive.replica("a")
    drive.take(drive.scheduler.replica_projected(replica, 10 * GIB, GIB, drive.now))
    usage = {"gpu:0": 23 * GIB, HOST: GIB}
    drive.take(drive.scheduler.replica_ready(replica, 1, drive.now, readings=(), usage=usage, cut="half of it"))
    drive.observe(usage, of="a")
    assert drive.need("a") == model.need
    assert drive.scheduler.view("a", drive.now).cut == "half of it"


def test_growth_is_learned_while_it_goes_on() -> None:
    drive = Drive([ModelSpec("a", 1, Need(0, 4 * GIB, source="formula"))])
    drive.rest("a")
    drive.sleep(1)
    drive.end(drive.ask("a"))
    changed = []
    for held in (4.0, 4.01, 4.5):
        usage = {drive.replica("a"): {HOST: int(held * GIB)}}
        changed.append(bool(drive.scheduler.memory_observed((), usage, drive.now)))
    assert changed == [True, False, True]
    assert (drive.need("a").host, drive.need("a").source) == (int(4.5 * GIB), "observed")


def test_the_kernels_high_water_mark_counts_more_than_samples() -> None:
    drive = Drive([cpu_model("a", 4)])
    drive.serve("a")
    replica = drive.replica("a")
    held, most = {replica: {HOST: 2 * GIB}}, {replica: {HOST: 5 * GIB}}
    drive.take(drive.scheduler.memory_observed((), held, drive.now, peaks=most))
    assert drive.scheduler.view("a", drive.now).seen == {HOST: 2 * GIB}
    drive.take(drive.scheduler.replica_exited(replica, "gone", drive.now, peak={HOST: 6 * GIB}))
    assert drive.need("a").host == 6 * GIB


def test_one_that_ran_out_of_it_at_work_gets_more_room_next_time() -> None:
    drive = Drive([cpu_model("a", 4)])
    drive.serve("a")
    drive.sleep(60)
    drive.exit("a", "was killed (out of memory?)", exhausted=RAM)
    assert (drive.need("a").host, drive.need("a").source) == (5 * GIB, "raised")
    assert drive.starts() == ["a", "a"], "it restarts by itself"
    drive.ready("a")
    drive.sleep(60)
    drive.exit("a", "was killed (out of memory?)", exhausted=RAM)
    assert drive.need("a").host == 5 * GIB, "raised once, not again and again"


def test_what_it_takes_replaces_the_raise_once_it_has_worked() -> None:
    drive = Drive([cpu_model("a", 4)])
    drive.serve("a")
    drive.sleep(60)
    drive.exit("a", "out of memory", exhausted=RAM)
    drive.usage = {HOST: 3 * GIB}
    drive.ready("a")
    drive.end(drive.ask("a"))
    drive.sleep(1)
    drive.end(drive.ask("a"))
    drive.observe({HOST: 3 * GIB}, of="a")
    assert (drive.need("a").host, drive.need("a").source) == (3 * GIB, "observed")


def test_a_raise_is_no_lesson_about_what_grows() -> None:
    drive = Drive([replace(cpu_model("a"), need=Need(0, 4 * GIB, GIB, source="formula", base=4 * GIB))])
    drive.serve("a")
    drive.sleep(60)
    drive.exit("a", "out of memory", exhausted=RAM)
    assert (drive.need("a").host, drive.need("a").growth) == (5 * GIB, GIB)
    drive.usage = {HOST: 3 * GIB}
    drive.ready("a")
    drive.sleep(1)
    drive.end(drive.ask("a"))
    drive.observe({HOST: 9 * GIB // 2}, of="a")
    assert drive.need("a") == Need(0, 9 * GIB // 2, GIB, "observed", base=4 * GIB)


# -- memory of others ------------------------------------------------------------------------------------------------


def shown(drive: Drive, others: Mapping[str, int], faults: Mapping[str, str] | None = None) -> None:
    """What the devices show when others hold so many bytes there, and our replicas all that was booked for them."""
    held = Counter(others)
    for replica in drive.scheduler.replicas.values():
        held.update(replica.placement.bytes)
    drive.readings = tuple(
        DeviceReading(
            view.device.id, view.total, held[view.device.id], view.total - held[view.device.id],
            (faults or {}).get(view.device.id, ""),
        )
        for view in drive.scheduler.devices()
    )  # fmt: skip
    drive.observe()


def beside_others() -> Drive:
    """A small model in memory and a large one that is overdue, on a GPU of which somebody else holds 14 of 24 GiB."""
    drive = Drive([gpu_model("small", 6), gpu_model("large", 20)], devices=[host(64), gpu(0, 24)])
    shown(drive, {"gpu:0": 14 * GIB})
    drive.ask("small")
    drive.usage = {"gpu:0": 6 * GIB}
    drive.ready("small")
    drive.end(1)
    shown(drive, {"gpu:0": 14 * GIB})
    return drive


def test_nobody_is_evicted_for_memory_that_others_hold() -> None:
    drive = beside_others()
    drive.ask("large")
    for _ in range(30):
        drive.sleep(2)
        drive.end(drive.ask("small"))
        shown(drive, {"gpu:0": 14 * GIB})
    assert drive.evicted == []
    assert drive.status("small") is Status.READY


def test_once_they_give_it_back_room_is_made_and_it_is_loaded() -> None:
    drive = beside_others()
    drive.ask("large")
    drive.sleep(30)
    shown(drive, {"gpu:0": 0})
    assert [evicted.for_model for evicted in drive.evicted] == ["large"]
    drive.readings = tuple(
        DeviceReading(view.device.id, view.total, 0, view.total) for view in drive.scheduler.devices()
    )
    drive.exit("small")
    assert drive.starts() == ["small", "large"]


def test_who_waits_for_it_is_told_the_arithmetic() -> None:
    drive = beside_others()
    ticket = drive.ask("large", timeout=30)
    words = ("needs 20,480 MiB on gpu:0 (4,096 MiB of 24,576 MiB free)", "16,384 MiB short on gpu:0",
             "14,336 MiB of gpu:0 are in use by other processes")  # fmt: skip
    view, place = drive.scheduler.view("large", drive.now), drive.scheduler.place(ticket, drive.now)
    assert place is not None
    drive.sleep(31)
    for told in (view.reason, view.shortage, place.shortage, drive.rejected[ticket].message):
        assert [word for word in words if word not in told] == [], told
    assert drive.scheduler.view("large", drive.now).shortage == "", "nobody wants it any more"


def test_others_are_not_named_where_it_is_the_budget_that_is_used_up() -> None:
    machine = replace(host(64), capacity=8 * GIB)
    drive = Drive([cpu_model("small", 6), cpu_model("large", 7)], devices=[machine])
    drive.readings = (DeviceReading(HOST, 64 * GIB, 20 * GIB, 44 * GIB),)
    drive.usage = {HOST: 6 * GIB}
    drive.serve("small")
    drive.ask("large")
    told = drive.scheduler.view("large", drive.now).shortage
    assert told == "needs 7,168 MiB on host (2,048 MiB of 8,192 MiB free): 5,120 MiB short on host"


def test_what_was_refused_has_not_failed_any_more_once_it_could_fit() -> None:
    pinned = [replace(cpu_model(name, 5), pinned=True) for name in ("p", "q")]
    drive = Drive([*pinned, cpu_model("a", 12), cpu_model("huge", 20)], devices=[host(16)])
    drive.rest("p")
    drive.rest("q")
    refused = [drive.ask("a"), drive.ask("huge")]
    drive.observe()
    assert drive.rejected.keys() == set(refused)
    for gone, status, told in (("p", Status.FAILED, "the pinned models stay: 'q'"), ("q", Status.OFF, "")):
        drive.eject(gone)
        drive.exit(gone)
        drive.observe()
        view = drive.scheduler.view("a", drive.now)
        assert view.status is status
        assert view.reason.endswith(told)
    assert view.reason == ""
    assert drive.status("huge") is Status.FAILED


def test_nor_when_it_was_asked_for_and_given_up_meanwhile() -> None:
    drive = Drive([replace(cpu_model("p", 5), pinned=True), cpu_model("b", 10), cpu_model("a", 12)])
    drive.rest("p")
    drive.serve("b")
    assert drive.ask("a") in drive.rejected
    drive.eject("p")
    drive.exit("p")
    drive.load("a")
    drive.eject("a")
    drive.observe()
    assert drive.status("a") is Status.OFF


def test_a_gpu_that_cannot_be_read_gets_no_new_model() -> None:
    drive = Drive([gpu_model("a", 6), gpu_model("b", 6), gpu_model("c", 20)], devices=[host(64), gpu(0, 24), gpu(1)])
    shown(drive, {}, {"gpu:1": "fell off the bus"})
    drive.ask("a")
    assert list(drive.started[0].placement.bytes) == ["gpu:0"], "the other one is smaller, and would be the better fit"
    drive.ready("a")
    shown(drive, {}, {"gpu:0": "fell off the bus"})
    drive.ask("b")
    assert list(drive.started[1].placement.bytes) == ["gpu:1"]
    drive.ready("b")
    drive.ask("c")
    drive.sleep(60)
    assert drive.evicted == [], "nobody would gain anything"
    assert "gpu:0 cannot be read: fell off the bus" in drive.scheduler.view("c", drive.now).reason
    assert [view.fault for view in drive.scheduler.devices()] == ["", "fell off the bus", ""]
