"""One timer for many times: the earliest is kept, and none comes too early."""

import asyncio
from time import monotonic

from router.engine.alarm import Alarm


class Bell:
    """Notes when it was rung."""

    def __init__(self) -> None:
        self.alarm = Alarm(self.ring)
        self.rung: list[float] = []
        self.heard = asyncio.Event()

    def ring(self) -> None:
        self.rung.append(monotonic())
        self.heard.set()


async def test_the_earliest_time_counts_whatever_comes_later() -> None:
    bell, now = Bell(), monotonic()
    for after in (3600.0, 0.02, 7200.0):
        bell.alarm.set(now + after)
    async with asyncio.timeout(5):
        await bell.heard.wait()
    (rung,) = bell.rung
    assert rung >= now + 0.02


async def test_it_may_be_set_again_as_it_rings() -> None:
    rung, done = list[float](), asyncio.Event()

    def ring() -> None:
        rung.append(monotonic())
        if len(rung) == 3:
            done.set()
        else:
            alarm.set(rung[-1] - 1.0)  # also to a time that is over

    alarm = Alarm(ring)
    alarm.set(monotonic())
    async with asyncio.timeout(5):
        await done.wait()


async def test_a_cancelled_one_is_silent_and_can_be_set_later_than_before() -> None:
    silenced, other = Bell(), Bell()
    silenced.alarm.set(monotonic() + 0.001)
    silenced.alarm.cancel()
    silenced.alarm.cancel()
    other.alarm.set(monotonic() + 0.02)
    async with asyncio.timeout(5):
        await other.heard.wait()
        assert silenced.rung == []
        silenced.alarm.set(monotonic())
        await silenced.heard.wait()
