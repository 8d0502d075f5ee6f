"""A watch that behaves like `asyncio.timeout`."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from router.api.disconnect import ClientDisconnected, DisconnectWatch
from router.proxy.answer import Answer
from tests.support.waiting import turn


class Client:
    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.answer = Answer(self.take)

    async def take(self, message: Message) -> None: ...

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
async def client() -> Client:
    return Client()


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_client_that_goes_ends_the_block(client: Client) -> None:
    asyncio.get_running_loop().call_soon(client.gone.set)
    with pytest.raises(ClientDisconnected):
        async with DisconnectWatch(client.receive, client.answer, grace=0):
            await forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("grace", [0, 3600])
async def test_a_client_that_stays_changes_nothing(grace: float, client: Client) -> None:
    async with DisconnectWatch(client.receive, client.answer, grace=grace):
        for _ in range(3):
            await turn()
        watching = [task for task in asyncio.all_tasks() if task.get_name() == "disconnect watch"]
        assert len(watching) == (1 if grace == 0 else 0)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "disconnect watch"] == []


async def test_going_after_the_last_byte_is_no_disconnect(client: Client) -> None:
    async with DisconnectWatch(client.receive, client.answer, grace=0):
        await client.answer.end()
        client.gone.set()
        for _ in range(5):
            await turn()


async def test_a_cancellation_from_elsewhere_goes_on_as_one(client: Client) -> None:
    async def watched() -> None:
        async with DisconnectWatch(client.receive, client.answer, grace=0):
            await forever()

    task = asyncio.create_task(watched())
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once_is_a_cancellation(client: Client) -> None:
    async def watched() -> None:
        async with DisconnectWatch(client.receive, client.answer, grace=0):
            try:
                await forever()
            finally:
                task.cancel()

    task = asyncio.create_task(watched())
    await turn()
    client.gone.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_is_not_hidden(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        async with DisconnectWatch(client.receive, client.answer, grace=0):
            raise ZeroDivisionError
