"""An ASGI app on a real socket, served by the server and the HTTP parser of production, in the test's own loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from router.api.boundary import AbortFilter


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
async def served(app: ASGIApp) -> AsyncIterator[Address]:
    config = uvicorn.Config(
        app, http="httptools", lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    aborts = AbortFilter()
    logging.getLogger("uvicorn.error").addFilter(aborts)
    # With the protocol named, asyncio turns Nagle off for accepted connections; without it each answer takes 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup(sockets=[listener])
        try:
            yield Address(listener.getsockname()[1])
        finally:
            await server.shutdown(sockets=[listener])
            logging.getLogger("uvicorn.error").removeFilter(aborts)


async def eventually(fact: Callable[[], bool], *, within: float = 5.0) -> None:
    """Give the loop turns until `fact` holds; fails after `within` seconds."""
    async with asyncio.timeout(within):
        while not fact():  # noqa: ASYNC110 - the fact may be anything, not only an event
            await asyncio.sleep(0.001)
