"""A watch that behaves like `asyncio.timeout`."""

from __future__ import annotations

import asyncio

import pytest

from router.api.disconnect import ClientDisconnected, DisconnectWatch
from router.proxy.downstream import Watcher
from tests.fakes.client import FakeClient
from tests.support.waiting import turn


class GoneClient(FakeClient):
    """It was lost before anybody watched."""

    def watch(self, watcher: Watcher | None) -> None:
        super().watch(watcher)
        if watcher is not None:
            watcher.client_gone()


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


async def forever() -> None:
    await asyncio.Event().wait()


def leave(client: FakeClient) -> None:
    assert client.watcher is not None
    client.watcher.client_gone()


async def test_a_client_that_goes_ends_the_block(client: FakeClient) -> None:
    asyncio.get_running_loop().call_soon(leave, client)
    with pytest.raises(ClientDisconnected), DisconnectWatch(client):
        await forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert client.watcher is None


async def test_one_that_was_gone_before_is_not_worked_for() -> None:
    begun = False
    with pytest.raises(ClientDisconnected), DisconnectWatch(GoneClient()):
        begun = True
    assert not begun
    await turn()  # and nothing is left behind that would be thrown here


async def test_a_client_that_stays_changes_nothing(client: FakeClient) -> None:
    with DisconnectWatch(client):
        await turn()
    assert client.watcher is None


async def test_going_after_the_last_byte_is_no_disconnect(client: FakeClient) -> None:
    with DisconnectWatch(client):
        client.start(200, [])
        client.end()
        leave(client)
        await turn()


async def test_a_cancellation_from_elsewhere_goes_on_as_one(client: FakeClient) -> None:
    async def watched() -> None:
        with DisconnectWatch(client):
            await forever()

    task = asyncio.create_task(watched())
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once_is_a_cancellation(client: FakeClient) -> None:
    async def watched() -> None:
        with DisconnectWatch(client):
            try:
                await forever()
            finally:
                task.cancel()

    task = asyncio.create_task(watched())
    await turn()
    leave(client)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_was_cancelled_before_is_still_told(client: FakeClient) -> None:
    told: list[type[BaseException]] = []

    async def watched() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_soon(leave, client)
            try:
                with DisconnectWatch(client):
                    await forever()
            except (asyncio.CancelledError, ClientDisconnected) as error:
                told.append(type(error))
            raise

    task = asyncio.create_task(watched())
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [ClientDisconnected]


async def test_an_error_of_the_block_is_not_hidden(client: FakeClient) -> None:
    with pytest.raises(ZeroDivisionError), DisconnectWatch(client):
        raise ZeroDivisionError


async def test_the_clients_pace_is_passed_on(client: FakeClient) -> None:
    told: list[str] = []
    with DisconnectWatch(client) as watch:
        watch.client_full()
        watch.client_ready()
        watch.on_full, watch.on_ready = lambda: told.append("full"), lambda: told.append("ready")
        watch.client_full()
        watch.client_ready()
    assert told == ["full", "ready"]


async def test_who_asks_late_learns_that_the_client_is_full(client: FakeClient) -> None:
    told: list[str] = []
    with DisconnectWatch(client) as watch:
        watch.client_full()
        watch.on_full = lambda: told.append("full")
    assert told == ["full"]
