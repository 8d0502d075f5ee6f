"""An ASGI app on a real socket, served by the server and the HTTP parser of production, in the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from router.api.door import Door, Limits
from router.api.server import config_of, listen


@dataclass(frozen=True)
class Address:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, data: bytes) -> bytes:
        """Send raw bytes and read until the router closes; a request should ask for `connection: close`."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def served(app: ASGIApp, *, door: Door | None = None, **limits: Any) -> AsyncIterator[Address]:
    """Args:
    door: by which clients come in.
    limits: of the door; those of `Limits`.
    """
    config = config_of(app, door=door or Door(Limits(**limits)))
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with listen("127.0.0.1", 0) as listener:
        await server.startup(sockets=[listener])
        try:
            yield Address(listener.getsockname()[1])
        finally:
            await server.shutdown(sockets=[listener])


async def eventually(fact: Callable[[], bool], *, within: float = 5.0) -> None:
    """Give the loop turns until `fact` holds; fails after `within` seconds."""
    async with asyncio.timeout(within):
        while not fact():  # noqa: ASYNC110 - the fact may be anything, not only an event
            await asyncio.sleep(0.001)
