"""Many short streams, one after the other and side by side: not one may fail."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp

from tests.support.router import RunningRouter

BODY = {"model": "chat", "stream": True, "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}


async def run(router: RunningRouter, count: int, workers: int) -> Counter[str]:
    """Ask for `count` streams in each of `workers` loops; how they went, by outcome."""
    outcomes: Counter[str] = Counter()

    async def work(session: aiohttp.ClientSession) -> None:
        for _ in range(count):
            outcomes[await outcome(session, f"{router.url}/v1/chat/completions")] += 1

    headers = {"authorization": f"Bearer {router.api_key}"}
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session, asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work(session))
    return outcomes


async def outcome(session: aiohttp.ClientSession, url: str) -> str:
    """`whole`, or what is wrong with the stream."""
    try:
        async with session.post(url, json=BODY) as response:
            wire = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return repr(error)
    if response.status != 200:
        return f"{response.status} {wire!r}"
    is_whole = wire.endswith(b"data: [DONE]\n\n") and b'"finish_reason":"length"' in wire and b'"error"' not in wire
    return "whole" if is_whole else repr(wire)


async def test_one_after_the_other(running_router: RunningRouter) -> None:
    assert await run(running_router, 1000, 1) == {"whole": 1000}


async def test_four_side_by_side(running_router: RunningRouter) -> None:
    assert await run(running_router, 250, 4) == {"whole": 1000}
