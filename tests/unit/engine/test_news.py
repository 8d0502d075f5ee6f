"""Who waits for a change looks again at each, and not for longer than he wants to."""

import asyncio
from functools import partial

import pytest

from router.engine.news import News


async def test_everybody_is_woken_by_each_change() -> None:
    news, changes = News(), list[int]()
    waiting = [asyncio.create_task(news.until(partial(lambda wanted: len(changes) >= wanted, n))) for n in (1, 2, 2)]
    for change in range(2):
        await asyncio.sleep(0)
        changes.append(change)
        news.spread()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [True, True, True]


async def test_what_is_so_is_not_waited_for() -> None:
    assert await News().until(lambda: True, timeout=0)


async def test_patience_ends() -> None:
    assert not await News().until(lambda: False, timeout=0.01)


async def test_a_look_may_end_the_wait_with_an_error() -> None:
    news, looks = News(), iter([False, True])

    def look() -> bool:
        if next(looks):
            raise LookupError("gone")
        return False

    waiting = asyncio.create_task(news.until(look))
    await asyncio.sleep(0)
    news.spread()
    with pytest.raises(LookupError, match="gone"):
        await waiting
