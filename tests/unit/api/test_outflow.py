"""When a client is given up, and when not."""

from __future__ import annotations

import asyncio

from router.api.outflow import Outflow
from tests.support.waiting import turn


class Buffer(asyncio.Transport):
    """Its client takes a byte before each look until only `end` are left."""

    def __init__(self, begin: int, end: int) -> None:
        super().__init__()
        self.size = begin
        self.end = end

    def get_write_buffer_size(self) -> int:
        self.size = max(self.size - 1, self.end)
        return self.size


async def test_a_client_is_not_given_up_as_long_as_it_takes_anything() -> None:
    given_up, buffer = asyncio.Event(), Buffer(30, 10)
    outflow = Outflow(0.004)
    outflow.watch(buffer, given_up.set)
    async with asyncio.timeout(5):
        await given_up.wait()
    assert buffer.size == buffer.end


async def test_one_that_has_caught_up_is_left_alone() -> None:
    given_up, buffer = asyncio.Event(), Buffer(10, 10)
    outflow = Outflow(0.004)
    outflow.watch(buffer, given_up.set)
    outflow.release()
    other = asyncio.Event()
    Outflow(0.008).watch(buffer, other.set)
    await other.wait()
    assert not given_up.is_set()


async def test_nobody_waits_where_nothing_is_full() -> None:
    await Outflow(1).drained()


async def test_those_who_wait_go_on_when_it_is_no_longer_full() -> None:
    outflow = Outflow(1)
    outflow.full = True
    waiting = asyncio.create_task(outflow.drained())
    await turn()
    assert not waiting.done()
    outflow.release()
    await waiting
