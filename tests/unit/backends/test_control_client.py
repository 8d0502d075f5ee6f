"""What a listener is told before it is proved to be our child."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router.backends.control_client import ControlClient, NotOurs

KEY = "the-childs-own-key"


@asynccontextmanager
async def stranger(said: list[bytes]) -> AsyncIterator[int]:
    """A server that says 200 to everything and keeps what it is told; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            said.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_stranger_never_sees_the_key() -> None:
    said: list[bytes] = []
    client = ControlClient(KEY)
    try:
        async with stranger(said) as port:
            assert await client.healthy(port)
            with pytest.raises(NotOurs, match="200 to a wrong key"):
                await client.identify(port, expected_slots=1)
    finally:
        await client.close()
    assert len(said) == 2
    assert not any(KEY.encode() in head for head in said)
