"""The order of a shutdown: the engine hears of it first, and once more before connections are cut."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from router.api.server import Server, listen


async def test_open_requests_are_told_at_the_deadline_and_may_still_answer() -> None:
    told: list[str] = []
    listening, deadline = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        told.append("request")
        server.exit()
        await deadline.wait()
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"shutting down"})

    def at_deadline() -> None:
        told.append("deadline")
        deadline.set()

    server = Server(
        app,
        on_listening=listening.set,
        on_exit=lambda: told.append("exit"),
        on_deadline=at_deadline,
        on_hurry=lambda: told.append("hurry"),
        drain=lambda: 0.05,
    )
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/")
        assert (answer.status_code, answer.text) == (503, "shutting down")
        await serving
    assert told == ["request", "exit", "deadline"]


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use") as refused:
            listen("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in str(refused.value.strerror)


def test_ipv6_has_its_own_brackets() -> None:
    with listen("::1", 0) as sock:
        assert sock.family is socket.AF_INET6
