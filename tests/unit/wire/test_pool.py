"""Connections kept, lost and closed."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from router.wire.connection import Connection
from router.wire.pool import Pool
from tests.fakes.sink import RecordingSink
from tests.fakes.upstream import FakeUpstream, Heard, Wire
from tests.support.waiting import turn, until

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"


async def used(pool: Pool) -> Connection:
    connection, sink = pool.idle() or await pool.connect(), RecordingSink()
    connection.send(GET, b"", sink)
    assert await sink.ended() == "end"
    return connection


async def test_a_connection_is_used_again(fake: FakeUpstream, pool: Pool) -> None:
    assert pool.idle() is None
    for _ in range(3):
        pool.give_back(await used(pool))
    assert fake.connections == 1


async def test_the_newest_goes_first(fake: FakeUpstream, pool: Pool) -> None:
    first, second = await pool.connect(), await pool.connect()
    for connection in (first, second):
        sink = RecordingSink()
        connection.send(GET, b"", sink)
        await sink.ended()
        pool.give_back(connection)
    assert pool.idle() is second
    assert pool.idle() is first
    assert pool.idle() is None


async def test_a_broken_answer_is_not_given_back(fake: FakeUpstream, pool: Pool) -> None:
    connection = await pool.connect()
    sink = RecordingSink()
    connection.send(GET, b"", sink)
    pool.give_back(connection)
    assert pool.idle() is None
    await until(lambda: fake.open == 0)
    assert sink.order == []


async def test_one_that_the_upstream_closes_is_dropped(fake: FakeUpstream, pool: Pool) -> None:
    closing = asyncio.Event()

    async def script(_: Heard, wire: Wire) -> None:
        await wire.answer(b"{}")
        await closing.wait()
        wire.writer.close()

    fake.script = script
    connection = await used(pool)
    pool.give_back(connection)
    closing.set()
    await until(lambda: not connection.reusable)
    assert pool.idle() is None


async def test_nothing_is_remembered_of_it(fake: FakeUpstream, pool: Pool) -> None:
    connection = await used(pool)
    pool.give_back(connection)
    connection.abort()
    await until(lambda: not pool._open)
    assert not pool._kept


async def test_a_stale_one_breaks_untouched(fake: FakeUpstream, pool: Pool) -> None:
    """The upstream closes it at the very moment at which the next request is sent."""

    async def script(heard: Heard, wire: Wire) -> None:
        if len(fake.heard) == 1:
            await wire.answer(b"{}")
        else:
            wire.cut()

    fake.script = script
    connection = await used(pool)
    pool.give_back(connection)
    assert pool.idle() is connection
    assert connection.used
    sink = RecordingSink()
    connection.send(GET, b"", sink)
    assert await sink.ended() == "broke"
    assert sink.error is not None
    assert sink.error.untouched


async def test_idle_ones_are_closed_in_time(fake: FakeUpstream) -> None:
    async with fake.serving() as upstream:
        port = int(upstream.url.rpartition(":")[2])
        pool = Pool("127.0.0.1", port, keepalive=0.05)
        connections = [await pool.connect() for _ in range(3)]
        for connection in connections:
            sink = RecordingSink()
            connection.send(GET, b"", sink)
            await sink.ended()
            pool.give_back(connection)
        kept = pool.idle()
        assert kept is connections[2]
        await until(lambda: fake.open == 1)
        assert pool.idle() is None
        assert kept.reusable
        pool.give_back(kept)
        await until(lambda: fake.open == 0)
        pool.close()


async def test_each_idle_one_has_its_own_time(fake: FakeUpstream) -> None:
    loop = asyncio.get_running_loop()
    async with fake.serving() as upstream:
        pool = Pool("127.0.0.1", int(upstream.url.rpartition(":")[2]), keepalive=0.1)
        first, second = await used(pool), await used(pool)
        pool.give_back(first)
        later = loop.time() + 0.05
        await until(lambda: loop.time() > later)
        pool.give_back(second)
        await until(lambda: fake.open == 1)
        assert second.reusable
        await until(lambda: fake.open == 0)
        pool.close()


async def test_a_close_breaks_open_answers(fake: FakeUpstream, pool: Pool) -> None:
    async def script(_: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.peer_gone()

    pool.give_back(await used(pool))
    kept = pool.idle()
    assert kept is not None
    pool.give_back(kept)
    fake.script = script
    busy, sink = await pool.connect(), RecordingSink()
    busy.send(GET, b"", sink)
    await sink.head_told()
    pool.close()
    assert pool.closed
    assert sink.order == ["head", "broke"]
    assert "closed" in sink.reason
    assert pool.idle() is None
    await until(lambda: fake.open == 0)
    pool.give_back(kept)
    pool.give_back(busy)
    pool.close()
    assert pool.idle() is None


async def test_a_closed_pool_makes_no_connection(fake: FakeUpstream, pool: Pool) -> None:
    connecting = asyncio.create_task(pool.connect())
    await turn()
    pool.close()
    with pytest.raises(ConnectionAbortedError, match="closed"):
        await connecting
    with pytest.raises(ConnectionAbortedError, match="closed"):
        await pool.connect()
    await until(lambda: fake.open == 0)


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = Pool("127.0.0.1", unused.getsockname()[1])
        with pytest.raises(ConnectionRefusedError):
            await pool.connect()
        assert not pool._open


async def test_a_listener_that_accepts_nobody() -> None:
    """A full backlog: the handshake is not answered."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        pool = Pool("127.0.0.1", listener.getsockname()[1], connect_timeout=0.05)
        with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:.* within 0\.05 s"):
            await pool.connect()
        connecting = asyncio.create_task(pool.connect())
        await turn()
        connecting.cancel()
        await asyncio.wait({connecting})
        assert connecting.cancelled()
        assert not pool._open


async def test_what_is_gone_leaves_nothing_for_the_garbage_collector(fake: FakeUpstream, pool: Pool) -> None:
    """It runs rarely here, and each stream has a connection of its own."""
    await used(pool)
    pool.close()
    await until(lambda: not pool._open)
    await turn()
    gc.collect()
    gc.disable()
    try:
        again = Pool(pool._host, pool._port)
        connection = await used(again)
        connection.abort()
        del connection
        await until(lambda: not again._open)
        await turn()
        assert not [found for found in gc.get_objects() if isinstance(found, Connection)]
    finally:
        gc.enable()
