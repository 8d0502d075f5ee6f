"""The order of a shutdown: the engine hears of it first, and once more before connections are cut."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from router.api import protocol
from router.api.server import Server, listen
from router.errors import ShuttingDown
from tests.support.waiting import until


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


async def test_who_comes_late_is_answered_and_a_second_exit_waits_for_nobody() -> None:
    told: list[str] = []
    listening, working = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/for-ever":
            working.set()
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"come again"})

    server = Server(
        app,
        on_listening=listening.set,
        on_exit=lambda: told.append("exit"),
        on_deadline=lambda: told.append("deadline"),
        on_hurry=lambda: told.append("hurry"),
        drain=lambda: 3600.0,
    )
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx.AsyncClient() as client, httpx.AsyncClient() as newcomer:
            held = asyncio.create_task(client.get(f"{url}/for-ever"))
            await working.wait()
            server.exit()
            assert (await newcomer.get(url)).text == "come again"
            assert (await newcomer.get(url)).text == "come again"
            server.exit()
            async with asyncio.timeout(20):
                await serving
            with pytest.raises(httpx.TransportError):
                await held
    assert told == ["exit", "hurry", "deadline"]


async def test_a_request_that_is_not_whole_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LINGER_SEC", 3600.0)  # nor for what its client still sends once it is answered
    told: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive())["more_body"]:
                pass
        except ShuttingDown as error:
            told.append(error)
            raise

    listening, deadline = asyncio.Event(), asyncio.Event()
    server = Server(
        app,
        on_listening=listening.set,
        on_exit=lambda: None,
        on_deadline=deadline.set,
        on_hurry=lambda: None,
        drain=lambda: 3600.0,
    )
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        connections = [await asyncio.open_connection(*sock.getsockname()) for _ in range(3)]
        for (_, writer), said in zip(connections, (b"", b"a", b"ab"), strict=True):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n" + said)
        await until(lambda: len(server.server_state.tasks) == 3)
        server.exit()
        async with asyncio.timeout(20):
            await serving
        for reader, writer in connections:
            assert (await reader.readline()).startswith(b"HTTP/1.1 500 ")
            writer.close()
    assert len(told) == 3


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use") as refused:
            listen("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in str(refused.value.strerror)


def test_ipv6_has_its_own_brackets() -> None:
    with listen("::1", 0) as sock:
        assert sock.family is socket.AF_INET6
