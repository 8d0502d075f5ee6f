"""The order of a shutdown: the engine hears of it first, and once more before connections are cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

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


async def come_again(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"come again"})


def quiet_server(listening: asyncio.Event, on_deadline: Callable[[], None] = lambda: None) -> Server:
    return Server(
        come_again,
        on_listening=listening.set,
        on_exit=lambda: None,
        on_deadline=on_deadline,
        on_hurry=lambda: None,
        drain=lambda: 3600.0,
    )


async def answer_on(caller: socket.socket) -> bytes:
    """All that comes until the end."""
    reader, writer = await asyncio.open_connection(sock=caller)
    told = await reader.read()
    writer.close()
    return told


async def test_who_is_not_accepted_yet_when_the_end_comes_is_answered() -> None:
    listening = asyncio.Event()
    server = quiet_server(listening)
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        caller = socket.create_connection(sock.getsockname())  # as far as the kernel goes
        caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        server.exit()
        assert b"come again" in await answer_on(caller)
        await serving


async def test_who_comes_in_the_last_moment_is_answered() -> None:
    """When nobody else is served any more, and the listener is about to be closed."""
    listening = asyncio.Event()
    callers: list[socket.socket] = []

    def call() -> None:
        callers.append(socket.create_connection(sock.getsockname()))
        callers[0].sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

    server = quiet_server(listening, call)
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        server.exit()
        await until(lambda: callers != [])
        assert b"come again" in await answer_on(callers[0])
        await serving


async def test_a_request_that_is_not_read_yet_when_the_end_comes_is_answered() -> None:
    listening = asyncio.Event()
    server = quiet_server(listening)
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        caller = socket.create_connection(sock.getsockname())
        await until(lambda: bool(server.server_state.connections))
        caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        server.exit()
        assert b"come again" in await answer_on(caller)
        await serving


async def test_who_has_just_come_gets_a_moment_to_ask() -> None:
    listening, deadline = asyncio.Event(), asyncio.Event()
    server = quiet_server(listening, deadline.set)
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        with socket.create_connection(sock.getsockname()) as silent:
            await until(lambda: bool(server.server_state.connections))
            server.exit()
            caller = socket.create_connection(sock.getsockname())
            await until(lambda: len(server.server_state.connections) == 2)
            caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"come again" in await answer_on(caller)
            await serving
            assert silent.recv(1) == b"", "nobody is waited for if he says nothing"


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
