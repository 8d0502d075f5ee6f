"""The worker thread: results, errors, and calls that hang."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from router.worker import Errand, Worker, apart
from tests.fakes.posting import StuckDisk
from tests.support.waiting import turn, wait_until


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test")
    yield made
    made.stop()


async def test_results_and_errors_come_back(worker: Worker) -> None:
    assert await worker.run(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0, 5)
    assert await worker.run(lambda: 8, 5) == 8


async def test_a_call_that_hangs_costs_one_deadline_and_the_next_nothing(worker: Worker) -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        await worker.run(lambda: release.wait(30), 0.05)
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError, match="an earlier call"):
            await worker.run(lambda: True, 0.01)
    release.set()
    assert await worker.run(lambda: "answers again", 10) == "answers again"


async def test_waiting_calls_are_bounded(worker: Worker) -> None:
    started, release = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        release.wait(30)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run(hang, 30))
        assert await asyncio.to_thread(started.wait, 20)
        waiting = [tasks.create_task(worker.run(lambda: None, 30)) for _ in range(64)]
        await turn()
        with pytest.raises(TimeoutError, match="too many"):
            await worker.run(lambda: None, 30)
        release.set()
    assert all(task.done() for task in waiting)


async def test_a_cancelled_caller_is_cancelled_and_the_worker_goes_on(worker: Worker) -> None:
    started, release = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        release.wait(30)

    caller = asyncio.ensure_future(worker.run(hang, 30))
    assert await asyncio.to_thread(started.wait, 20)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    release.set()
    assert await worker.run(lambda: 1, 10) == 1


async def test_after_stop_a_call_fails_at_once(worker: Worker) -> None:
    worker.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        await worker.run(lambda: 1, 30)


async def test_what_is_posted_is_done_in_order_and_refused_when_there_is_no_room(worker: Worker) -> None:
    release, done = threading.Event(), list[int]()
    assert worker.post(lambda: release.wait(30))
    posted = [worker.post(lambda number=number: done.append(number)) for number in range(70)]  # type: ignore[misc]
    assert posted in ([True] * 64 + [False] * 6, [True] * 63 + [False] * 7), "the first may not have begun"
    release.set()
    await asyncio.to_thread(wait_until, lambda: len(done) == sum(posted), what="all of them")
    assert done == list(range(len(done)))
    worker.stop()
    assert not worker.post(lambda: None)


async def test_a_mistake_in_what_is_posted_does_not_end_the_worker(worker: Worker) -> None:
    assert worker.post(lambda: 1 // 0)
    assert await worker.run(lambda: 1, 10) == 1


def test_an_errand_is_made_once_for_all_who_ask_before_it_begins() -> None:
    disk, made = StuckDisk(room=1), list[int]()
    errand = Errand(lambda: made.append(1), disk.post)
    for _ in range(3):
        errand.ask()
    disk.release()
    assert len(made) == 1
    assert disk.post(lambda: None)
    errand.ask()
    disk.release()
    assert len(made) == 1, "there was no room for it"
    errand.ask()
    disk.release()
    assert len(made) == 2


async def test_calls_that_hang_apart_hold_up_no_other() -> None:
    release = threading.Event()
    hung = [asyncio.ensure_future(apart(lambda: release.wait(30))) for _ in range(50)]
    async with asyncio.timeout(10):
        assert await apart(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await apart(lambda: 1 // 0)
    hung[0].cancel()
    release.set()
    assert [type(one) for one in await asyncio.gather(*hung, return_exceptions=True)] == [
        asyncio.CancelledError, *[bool] * 49
    ]  # fmt: skip


HANGS = """
import asyncio, threading
from router.worker import Worker, apart

async def main():
    try:
        await {call}
    except TimeoutError:
        print("timed out")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "call",
    ["Worker('hangs').run(threading.Event().wait, 0.05)", "asyncio.wait_for(apart(threading.Event().wait), 0.05)"],
)
def test_a_call_that_hangs_does_not_keep_the_process_from_ending(call: str) -> None:
    program = HANGS.format(call=call)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=True)
    assert ended.stdout.strip() == b"timed out"
