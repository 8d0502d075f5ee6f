"""A request and its response on the wire, as the framework's `receive` and `send` and as the relay's `Downstream`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.cycle import Cycle, cycle_of
from router.api.protocol import HttpProtocol
from tests.fakes.serving import Address, eventually, served
from tests.support.waiting import turn

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
HEAD = CLOSING.replace(b"GET", b"HEAD")
OK: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY: Message = {"type": "http.response.body", "body": b"ok"}
MIB = 1024 * 1024

Relay = Callable[[Cycle], Awaitable[None]]


@asynccontextmanager
async def serving(app: ASGIApp, **limits: Any) -> AsyncIterator[Address]:
    async with asyncio.timeout(20), served(app, **limits) as address:
        yield address


@asynccontextmanager
async def relaying(relay: Relay, **limits: Any) -> AsyncIterator[Address]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await relay(cycle_of(scope))

    async with serving(app, **limits) as address:
        yield address


async def said(relay: Relay, request: bytes = CLOSING) -> tuple[str, list[str], bytes]:
    """The status line, the headers but for `date`, and the bytes after them."""
    async with relaying(relay) as address:
        answer = await address.say(request)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, [line for line in lines if not line.startswith("date: ")], body


async def sent_by_app(*messages: Message, request: bytes = CLOSING) -> bytes:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async with serving(app) as address:
        return await address.say(request)


class Listener:
    """A watcher that counts."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def client_gone(self) -> None:
        self.heard.append("gone")

    def client_full(self) -> None:
        self.heard.append("full")

    def client_ready(self) -> None:
        self.heard.append("ready")


# --- framing


async def test_a_length_is_kept_and_the_body_sent_as_it_is() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [(b"content-type", b"text/plain"), (b"content-length", b"5")])
        client.write(b"abc")
        client.end(b"de")
        assert (client.status, client.sent, client.complete) == (200, 5, True)

    first, headers, body = await said(relay)
    assert first == "HTTP/1.1 200 OK"
    assert headers == ["content-type: text/plain", "content-length: 5", "connection: close"]
    assert body == b"abcde"


async def test_without_a_length_it_is_sent_in_chunks() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [])
        client.flush()
        client.write(b"abc")
        client.write(b"x" * 20_000)
        client.end(b"de")

    _, headers, body = await said(relay)
    assert headers == ["transfer-encoding: chunked", "connection: close"]
    assert body == b"3\r\nabc\r\n4e20\r\n" + b"x" * 20_000 + b"\r\n2\r\nde\r\n0\r\n\r\n"


async def test_an_old_client_sees_the_end_by_the_connections() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [])
        client.write(b"abc")
        client.end()

    _, headers, body = await said(relay, OLD)
    assert (headers, body) == (["connection: close"], b"abc")


@pytest.mark.parametrize(("request_", "status"), [(HEAD, 200), (CLOSING, 204), (CLOSING, 304)])
async def test_some_answers_have_no_body(request_: bytes, status: int) -> None:
    async def relay(client: Cycle) -> None:
        client.start(status, [(b"content-length", b"5")])
        client.end(b"abcde")
        assert client.sent == 0

    _, headers, body = await said(relay, request_)
    assert headers == ["content-length: 5", "connection: close"]
    assert body == b""


async def test_unusual_statuses_have_a_line_too() -> None:
    async def relay(client: Cycle) -> None:
        client.start(299, [(b"content-length", b"0")])
        client.end()

    assert (await said(relay))[0] == "HTTP/1.1 299 "


async def test_its_own_lines_are_on_every_response() -> None:
    async def relay(client: Cycle) -> None:
        client.lines = b"x-one: 1\r\nx-two: 2\r\n"
        client.start(200, [(b"content-length", b"0")])
        client.end()

    assert (await said(relay))[1][:2] == ["x-one: 1", "x-two: 2"]


async def test_it_carries_a_date() -> None:
    assert b"\r\ndate: " in await sent_by_app(OK, BODY)


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_value_makes_a_header_of_its_own(value: bytes) -> None:
    answer = await sent_by_app({**OK, "headers": [(b"x", value)]}, BODY)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"evil" not in answer


# --- the end, and other ends


async def test_a_connection_is_used_again() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [(b"content-length", b"2")])
        client.end(client.scope["raw_path"])

    async with relaying(relay) as address:
        reader, writer = await address.connect()
        for path in (b"/a", b"/b"):
            writer.write(GET.replace(b"/ ", path + b" "))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(2) == path
        writer.close()


async def test_requests_sent_ahead_are_answered_in_turn() -> None:
    running = 0
    most = 0

    async def relay(client: Cycle) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await turn()
        running -= 1
        client.start(200, [])
        client.end(client.scope["raw_path"])

    async with relaying(relay) as address:
        answer = await address.say(b"".join(GET.replace(b"/", path, 1) for path in (b"/1", b"/2")) + CLOSING)
    assert most == 1
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"/")] == [b"/1", b"/2", b"/"]


async def test_what_follows_a_request_to_close_is_ignored() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [])
        client.end()

    async with relaying(relay) as address:
        assert (await address.say(CLOSING + GET)).count(b"HTTP/1.1") == 1


async def test_an_app_may_ask_to_close() -> None:
    answer = await sent_by_app({**OK, "headers": [*OK["headers"], (b"Connection", b"Close")]}, BODY, request=GET)
    assert answer.count(b"\r\nconnection: close\r\n") == 1


async def test_a_break_says_its_last_words_and_is_no_end() -> None:
    listener = Listener()

    async def relay(client: Cycle) -> None:
        client.watch(listener)
        client.start(200, [])
        client.write(b"abc")
        client.break_off(b"sorry")
        client.write(b"more")
        client.end()
        assert not client.complete

    async with relaying(relay) as address:
        answer = await address.say(GET)
    assert answer.endswith(b"3\r\nabc\r\n5\r\nsorry\r\n")
    assert listener.heard == []


async def test_an_old_clients_connection_is_reset_as_it_has_no_other_way_to_see_the_break() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [])
        client.write(b"abc")
        await turn()
        client.break_off()

    async with relaying(relay) as address:
        with pytest.raises(ConnectionResetError):
            await address.say(OLD)


async def test_an_app_that_stops_in_the_middle_breaks_off() -> None:
    answer = await sent_by_app({"type": "http.response.start", "status": 200}, {**BODY, "more_body": True}, request=GET)
    assert answer.endswith(b"2\r\nok\r\n")


async def test_an_app_that_says_nothing_is_a_bug_that_is_told() -> None:
    assert (await sent_by_app()).startswith(b"HTTP/1.1 500 ")


async def test_an_app_that_raises_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async with serving(app) as address:
        assert (await address.say(GET)).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("body", [b"o", b"okay"])
async def test_a_body_that_belies_its_length_is_broken_off(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer = await sent_by_app(OK, {**BODY, "body": body}, request=GET)
    assert b"okay" not in answer
    assert "content-length" in caplog.text


@pytest.mark.parametrize("messages", [(BODY,), (OK, OK), (OK, BODY, BODY), ({"type": "lifespan.startup"},)])
async def test_messages_out_of_order_are_bugs(messages: tuple[Message, ...], caplog: pytest.LogCaptureFixture) -> None:
    await sent_by_app(*messages)
    assert "RuntimeError" in caplog.text


# --- the request's body


async def bodies(request: bytes, *more: bytes) -> list[tuple[bytes, bool]]:
    """What `receive` gives, for a request that comes in pieces, each sent when the one before has been received."""
    got: list[tuple[bytes, bool]] = []
    pieces = iter(more)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        going_on = True
        while going_on:
            message = await receive()
            assert message["type"] == "http.request"
            got.append((message["body"], message["more_body"]))
            going_on = message["more_body"]
            writer.write(next(pieces, b""))
        await send(OK)
        await send(BODY)

    async with serving(app) as address:
        reader, writer = await address.connect()
        writer.write(request)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
    return got


UPLOAD = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"


async def test_a_body_that_came_with_its_head() -> None:
    assert await bodies(UPLOAD + b"content-length: 3\r\n\r\nabc") == [(b"abc", False)]


async def test_a_body_in_pieces() -> None:
    assert await bodies(UPLOAD + b"content-length: 5\r\n\r\nabc", b"de") == [(b"abc", True), (b"de", False)]


async def test_a_body_in_chunks_and_its_trailers() -> None:
    request = UPLOAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n"
    assert await bodies(request) == [(b"abcde", False)]


async def test_no_body() -> None:
    assert await bodies(CLOSING) == [(b"", False)]


async def test_trailers_are_not_the_next_requests_headers() -> None:
    heard: list[bytes] = []

    async def relay(client: Cycle) -> None:
        heard.extend(name for name, _ in client.scope["headers"])
        client.start(200, [])
        client.end()

    chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-trailer: 1\r\n\r\n"
    async with relaying(relay) as address:
        await address.say(chunked + CLOSING)
    assert heard == [b"host", b"transfer-encoding", b"host", b"connection"]


async def test_a_body_that_is_here_is_taken_without_waiting() -> None:
    async def relay(client: Cycle) -> None:
        found = client.taken_body()
        assert client.taken_body() is None
        client.start(200, [])
        client.end(repr(found).encode())

    assert b"b'abc'" in (await said(relay, UPLOAD + b"content-length: 3\r\n\r\nabc"))[2]
    assert b"b''" in (await said(relay, CLOSING))[2]
    assert b"None" in (await said(relay, UPLOAD + b"content-length: 3\r\n\r\nab"))[2]


async def test_a_client_that_hesitates_is_invited_to_send_its_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        await send(OK)
        await send({**BODY, "body": message["body"]})

    async with serving(app) as address:
        reader, writer = await address.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        answer = await reader.readuntil(b"hi")
        assert b"connection: close" not in answer
        writer.close()


async def test_one_whose_body_is_not_wanted_is_not_and_the_connection_ends() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    answer = await sent_by_app(OK, BODY, request=head)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


async def test_a_large_body_waits_in_the_clients_socket_until_it_is_asked_for() -> None:
    asked, held = asyncio.Event(), asyncio.Event()
    size = 32 * MIB

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        held.set()
        await asked.wait()
        got = 0
        while got < size:
            got += len((await receive())["body"])
        await send(OK)
        await send(BODY)

    async with serving(app) as address:
        reader, writer = await address.connect()
        writer.write(UPLOAD + b"content-length: %d\r\n\r\n" % size)
        await held.wait()
        writer.write(bytes(size))
        for _ in range(200):
            await turn()
        assert writer.transport.get_write_buffer_size() > size / 2
        asked.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_an_early_answer_leaves_the_connection_in_order() -> None:
    async def relay(client: Cycle) -> None:
        client.start(200, [])
        client.end(b"ok")

    async with relaying(relay) as address:
        reader, writer = await address.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(bytes(200_000) + CLOSING)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


# --- requests sent ahead


class Turns:
    """Answers each request with its path; the first one has to be allowed to."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.heard: list[bytes] = []

    async def __call__(self, client: Cycle) -> None:
        self.heard.append(client.scope["raw_path"])
        self.begun.set()
        await self.go_on.wait()
        client.start(200, [])
        client.end(client.scope["raw_path"])


async def test_only_so_many_are_kept_and_the_client_is_told_which_was_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turns = Turns()
    async with relaying(turns) as address:
        reader, writer = await address.connect()
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(1000)))
        await eventually(lambda: "requests came ahead of their turn" in caplog.text)
        turns.go_on.set()
        answers = await reader.read()
        writer.close()
    assert turns.heard == [b"/%d" % number for number in range(65)]
    assert answers.count(b"HTTP/1.1 200") == 65
    assert answers.count(b"connection: close") == 1
    assert answers.endswith(b"connection: close\r\n\r\n3\r\n/64\r\n0\r\n\r\n")


async def test_a_large_one_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns()
    async with relaying(turns) as address:
        reader, writer = await address.connect()
        writer.write(GET + b"POST /2 HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n" + bytes(100_000))
        await eventually(lambda: "64 KB came ahead of their turn" in caplog.text)
        writer.write(bytes(100_000) + GET)
        await eventually(lambda: not writer.transport.get_write_buffer_size())
        for _ in range(20):  # it is read, and dropped
            await turn()
        turns.go_on.set()
        assert (await reader.read()).count(b"HTTP/1.1 200") == 1
        writer.close()
    assert turns.heard == [b"/"]


async def test_one_with_a_body_is_kept_whole() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def relay(client: Cycle) -> None:
        begun.set()
        await go_on.wait()
        client.start(200, [])
        client.end(b"%d bytes" % len(client.taken_body() or b""))

    async with relaying(relay) as address:
        reader, writer = await address.connect()
        writer.write(GET)
        await begun.wait()
        writer.write(b"POST /2 HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n" + bytes(60_000))
        for _ in range(20):
            await turn()
        go_on.set()
        await reader.readuntil(b"60000 bytes\r\n0\r\n\r\n")
        writer.close()


async def test_nothing_more_is_answered_until_the_client_takes_what_it_has() -> None:
    answered = 0

    async def relay(client: Cycle) -> None:
        nonlocal answered
        client.start(200, [(b"content-length", b"%d" % (8 * MIB))])
        client.end(bytes(8 * MIB))
        answered += 1

    async with relaying(relay, keep_alive=0.05) as address, relaying(relay, header_timeout=0.1) as other:
        with small_socket(address) as sock:
            sock.send(GET + GET + CLOSING)
            await eventually(lambda: answered == 1)
            await other.say(b"")  # takes longer than this connection could be idle
            assert answered == 1
            loop = asyncio.get_running_loop()
            got = 0
            while piece := await loop.sock_recv(sock, MIB):
                got += len(piece)
    assert answered == 3
    assert got > 3 * 8 * MIB


# --- clients that go, or do not read


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
async def test_a_client_that_goes_is_noticed_at_once(half: bool) -> None:
    listener, late = Listener(), Listener()
    watching, gone = asyncio.Event(), asyncio.Event()
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client = cycle_of(scope)
        client.watch(listener)
        watching.set()
        await receive()
        told.append((await receive())["type"])
        client.start(200, [])
        client.write(b"x")
        client.end()
        client.watch(late)
        told.append(f"{client.status} {client.sent} {client.complete}")
        gone.set()

    async with serving(app) as address:
        _, writer = await address.connect()
        writer.write(GET)
        await watching.wait()
        if half:
            writer.write_eof()
        else:
            writer.close()
        async with asyncio.timeout(5):
            await gone.wait()
        writer.close()
    assert listener.heard == late.heard == ["gone"]
    assert told == ["http.disconnect", "0 0 False"]


UPLOADS = [70_000, 300_000]


@pytest.mark.parametrize("request_", [
    *(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + bytes(size) for size in UPLOADS),
    GET + GET,
    GET + b"\0garbage",
], ids=[*map(str, UPLOADS), "another request", "garbage"])  # fmt: skip
async def test_nothing_that_it_has_sent_hides_it(request_: bytes) -> None:
    listener = Listener()
    reading, gone = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client = cycle_of(scope)
        while (await receive())["more_body"]:
            pass
        client.watch(listener)
        reading.set()
        await eventually(lambda: listener.heard == ["gone"])
        gone.set()

    async with serving(app) as address:
        _, writer = await address.connect()
        writer.write(request_)
        await reading.wait()
        for _ in range(20):
            await turn()
        writer.transport.abort()
        await gone.wait()


async def test_only_the_one_that_is_being_answered_is_told() -> None:
    listener = Listener()
    watching = asyncio.Event()

    async def relay(client: Cycle) -> None:
        client.start(200, [])
        if client.scope["path"] == "/":
            client.watch(listener)
            client.end()
            return
        watcher = Listener()
        client.watch(watcher)
        watching.set()
        await eventually(lambda: watcher.heard == ["gone"])

    async with relaying(relay) as address:
        _, writer = await address.connect()
        writer.write(GET + GET.replace(b"/", b"/2", 1) + GET)
        await watching.wait()
        writer.transport.abort()
    assert listener.heard == []


def small_socket(address: Address) -> socket.socket:
    """Takes little that nobody reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", address.port))
    sock.setblocking(False)
    return sock


async def fill(client: Cycle, listener: Listener) -> int:
    """Write until the client is full; returns how many bytes that took."""
    client.start(200, [])
    while not listener.heard:
        client.write(bytes(16 * 1024))
        await turn()
    return client.sent


async def test_a_slow_client_is_known_to_be_full_and_to_have_caught_up() -> None:
    listener, late = Listener(), Listener()
    full = asyncio.Event()

    async def relay(client: Cycle) -> None:
        client.watch(listener)
        await fill(client, listener)
        client.watch(late)
        assert late.heard == ["full"]
        full.set()
        await eventually(lambda: late.heard == ["full", "ready"])
        client.end()

    async with relaying(relay) as address:
        with small_socket(address) as sock:
            sock.send(CLOSING)
            await full.wait()
            loop = asyncio.get_running_loop()
            while await loop.sock_recv(sock, 65536):
                pass


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    listener = Listener()
    asked = asyncio.get_running_loop().create_future()

    async def relay(client: Cycle) -> None:
        client.watch(listener)
        begun = await fill(client, listener)
        await eventually(lambda: listener.heard == ["full", "gone"])
        asked.set_result(begun)

    async with relaying(relay, send_timeout=0.1) as address:
        with small_socket(address) as sock:
            sock.send(GET)
            assert await asked > 0


async def test_the_frameworks_send_waits_for_a_slow_client_and_is_freed_when_it_is_given_up() -> None:
    ended = asyncio.Event()
    most = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        client = cycle_of(scope)
        listener = Listener()
        client.watch(listener)
        await send({"type": "http.response.start", "status": 200})
        while "gone" not in listener.heard:
            await send({**BODY, "body": bytes(16 * 1024), "more_body": True})
            most = max(most, client.sent)
            await turn()
        ended.set()

    async with serving(app, send_timeout=0.1) as address:
        with small_socket(address) as sock:
            sock.send(GET)
            async with asyncio.timeout(5):
                await ended.wait()
    assert most < 8 * MIB  # of which the kernel holds the most


async def test_a_half_closed_connection_does_not_hide_behind_what_it_has_not_read() -> None:
    listener = Listener()
    full, gone = asyncio.Event(), asyncio.Event()

    async def relay(client: Cycle) -> None:
        client.watch(listener)
        await fill(client, listener)
        full.set()
        await eventually(lambda: listener.heard == ["full", "gone"])
        gone.set()

    async with relaying(relay) as address:
        with small_socket(address) as sock:
            sock.send(GET)
            await full.wait()
            sock.shutdown(socket.SHUT_WR)
            await gone.wait()


@pytest.mark.parametrize("rest", [8 * 1024, 16 * MIB], ids=["little", "much"])
async def test_a_whole_answer_that_nobody_takes_does_not_stay_for_ever(
    rest: int, caplog: pytest.LogCaptureFixture
) -> None:
    answered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client, connection = cycle_of(scope), cast("HttpProtocol", cycle_of(scope)._connection)
        client.start(200, [])
        while not connection._transport.get_write_buffer_size():
            client.write(bytes(8 * 1024))
            await turn()
        assert not client._connection.full
        client.end(bytes(rest))
        answered.set()

    async with serving(app, send_timeout=0.1) as address:
        sock = small_socket(address)
        sock.send(CLOSING)
        await answered.wait()
    # The server has waited for its connections, and would have said that it had to cut one.
    assert caplog.text == ""
    sock.close()
