"""Who waits for a change looks again at each, and not for longer than he wants to."""

import asyncio
from functools import partial

import pytest

from router.engine.news import News


async def test_everybody_is_woken_by_each_change() -> None:
    news, changes, looks = News(), list[int](), asyncio.Semaphore(0)

    def met(wanted: int) -> bool:
        looks.release()
        return len(changes) >= wanted

    waiting = [asyncio.create_task(news.until(partial(met, wanted))) for wanted in (1, 2, 2)]
    for change in range(2):
        for _ in waiting:
            await looks.acquire()
        changes.append(change)
        news.spread()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [True, True, True]


async def test_what_is_so_is_not_waited_for() -> None:
    assert await News().until(lambda: True, timeout=0)


async def test_patience_ends() -> None:
    assert not await News().until(lambda: False, timeout=0.01)


async def test_a_look_may_end_the_wait_with_an_error() -> None:
    news, looked = News(), asyncio.Event()

    def look() -> bool:
        if looked.is_set():
            raise LookupError("gone")
        looked.set()
        return False

    waiting = asyncio.create_task(news.until(look))
    await looked.wait()
    news.spread()
    with pytest.raises(LookupError, match="gone"):
        await waiting
