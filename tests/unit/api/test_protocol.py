"""What is made of the bytes of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from router.api import protocol
from router.api.cycle import cycle_of
from router.api.door import Door, Limits
from tests.fakes.serving import Address, eventually, served

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked."""
    cycle = cycle_of(scope)
    body = (await receive())["body"]
    cycle.start(200, [])
    told = {key: value for key, value in scope.items() if isinstance(value, str)}
    cycle.end(json.dumps(told | {"query": scope["query_string"].decode(), "body": body.decode()}).encode())


async def heard(target: bytes, *, method: bytes = b"GET", version: bytes = b"1.1") -> Mapping[str, Any]:
    async with served(echo) as address:
        answer = await address.say(b"%b %b HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n" % (method, target, version))
    assert answer.startswith(b"HTTP/1.1 200"), answer
    found: dict[str, Any] = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    return found


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/a/b?c=d?e&f", "/a/b", "c=d?e&f"),
        (b"/%C3%BC%20x?%20", "/ü x", "%20"),
        (b"//health", "//health", ""),
        (b"/a#b?c", "/a", ""),
        (b"/a?b#c", "/a", "b"),
        (b"http://other:1/a?b", "/a", "b"),
        (b"*", "*", ""),
    ],
)
async def test_targets(target: bytes, path: str, query: str) -> None:
    found = await heard(target, method=b"OPTIONS")
    assert (found["path"], found["query"], found["method"]) == (path, query, "OPTIONS")


async def test_a_head_that_begins_beside_the_request_before_it_is_measured_whole() -> None:
    sizes: list[int] = []

    async def measured(scope: Scope, receive: Receive, send: Send) -> None:
        sizes.append(cycle_of(scope).head_size)
        await echo(scope, receive, send)

    async with served(measured) as address, asyncio.timeout(10):
        reader, writer = await address.connect()
        writer.write(GET + CLOSING.removesuffix(b"\r\n") + b"x-filler: " + b"x" * 20_000)
        await reader.readuntil(b"}")
        writer.write(b"\r\n\r\n")
        assert await reader.read()
        writer.close()
    assert sizes[1] > 20_000


async def test_versions() -> None:
    assert (await heard(b"/"))["http_version"] == "1.1"
    assert (await heard(b"/", version=b"1.0"))["http_version"] == "1.0"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client's first words
        b"GET /\xfc HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /?\xfc HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told_so(garbage: bytes) -> None:
    async with served(echo) as address:
        answer = await address.say(garbage)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-request-id: " in head
    error = json.loads(body)["error"]
    assert error["message"].startswith("This is not valid HTTP")
    assert (error["type"], error["param"]) == ("invalid_request_error", None)


async def test_a_body_that_stops_being_http_is_told_so_and_the_request_is_over() -> None:
    reading, over = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        reading.set()
        assert (await receive())["type"] == "http.disconnect"
        over.set()

    async with served(app) as address:
        reader, writer = await address.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await reading.wait()
        writer.write(b"garbage\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        await over.wait()
        writer.close()


@pytest.mark.parametrize("answered", [False, True])
async def test_one_that_sends_on_is_left_after_a_while(answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LINGER_SEC", 0.05)
    door = Door(Limits(keep_alive=0.2))
    reading = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = cycle_of(scope)
        if answered:
            cycle.start(200, [])
            cycle.flush()
        reading.set()
        await receive()
        if answered:
            cycle.break_off()
        else:
            await receive()

    async with served(app, door=door) as address:
        _, writer = await address.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await reading.wait()
        writer.write(b"1\r\na\r\n" if answered else b"garbage\r\n")
        await eventually(lambda: door.counts.open == 0)
        writer.close()


async def test_garbage_after_a_request_does_not_get_into_its_answer() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = cycle_of(scope)
        cycle.start(200, [])
        cycle.write(b"a")
        begun.set()
        await go_on.wait()
        cycle.end(b"b")

    async with served(app) as address:
        reader, writer = await address.connect()
        writer.write(GET)
        await begun.wait()
        writer.write(b"garbage\r\n\r\n")
        await reader.readuntil(b"a\r\n")
        go_on.set()
        assert await reader.read() == b"1\r\nb\r\n0\r\n\r\n"
        writer.close()


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"GET /"])
async def test_a_head_without_an_end_is_not_collected(begin: bytes) -> None:
    door = Door(Limits())
    async with served(echo, door=door) as address:
        answer = await address.say(begin + b"a" * 300_000)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert door.counts.refused["head_size"] == 1
    assert b"headers_too_large" in answer


async def test_trailers_without_an_end_are_not_collected() -> None:
    async with served(echo) as address:
        reader, writer = await address.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: 1\r\n" * 200_000)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert (await reader.read()).count(b"HTTP/1.1") == 1
        writer.close()


async def test_an_upgrade_is_not_taken_up_and_the_request_is_answered_as_it_is() -> None:
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n"
    post = b"POST /1 HTTP/1.1\r\nhost: x\r\n" + upgrade + b"content-length: 2\r\n\r\nhi"
    get = b"GET /2 HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n"
    async with served(echo) as address:
        together = await address.say(post + get + CLOSING)
        reader, writer = await address.connect()
        for piece in (post[:40], post[40:-1], post[-1:]):
            writer.write(piece)
            await writer.drain()
        assert b'"body": "hi"' in await reader.readuntil(b"0\r\n\r\n")
        writer.write(get)
        assert b'"path": "/2"' in await reader.readuntil(b"0\r\n\r\n")
        writer.close()
    assert together.count(b"HTTP/1.1 200") == 3
    assert together.index(b'"path": "/1"') < together.index(b'"path": "/2"') < together.index(b'"path": "/"')


async def test_a_client_that_asks_for_nothing_is_not_kept() -> None:
    async with served(echo, header_timeout=0.05) as address:
        assert await address.say(b"") == b""


async def test_one_that_stops_within_a_head_is_told_so() -> None:
    async with served(echo, header_timeout=0.05) as address:
        answer = await address.say(b"GET / HTT")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"header_timeout_sec" in answer


async def test_one_that_has_asked_is_kept_for_a_while() -> None:
    async with served(echo, header_timeout=0.05, keep_alive=0.1) as address:
        assert (await address.say(GET)).startswith(b"HTTP/1.1 200")


async def test_one_that_is_being_answered_is_not_idle() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = cycle_of(scope)
        async with served(echo, header_timeout=0.05) as other:
            await other.say(b"")  # takes as long
            await other.say(b"")
        cycle.start(200, [])
        cycle.end()

    async with served(app, header_timeout=0.05, keep_alive=0.05) as address:
        assert (await address.say(GET)).startswith(b"HTTP/1.1 200")


async def test_nothing_is_left_of_a_connection_that_was_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(address: Address) -> None:
        await address.say(CLOSING)

    async with served(echo) as address:
        await asyncio.gather(*(ask(address) for _ in range(20)))
        await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "request"])
    assert caplog.text == ""
