"""The relay against an upstream on a real socket, with a client that keeps what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.errors import UpstreamFailed
from router.proxy.answer import Answer
from router.proxy.dialect import Dialect
from router.proxy.relay import Call, relay
from router.wire.pool import Pool
from router.wire.sink import ConnectionBroken, RawHeaders, Sink
from tests.fakes.client import FakeClient
from tests.fakes.serving import eventually
from tests.fakes.upstream import FakeUpstream, Heard, Wire
from tests.support.waiting import turn


class Client(FakeClient):
    """With the answer that writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = Answer(self, Dialect.OPENAI, "id")


class Releases:
    def __init__(self) -> None:
        self.finished: list[bool] = []

    def lease(self, upstream: Upstream) -> Lease:
        return Lease(
            lease_id=1,
            model="m",
            replica=1,
            upstream=upstream,
            granted_at=0.0,
            release=lambda _, finished: self.finished.append(finished),
        )


def call(body: bytes = b"{}", *, stream: bool = False) -> Call:
    return Call("POST", "/v1/chat/completions", {}, body, "application/json", stream)


@pytest.fixture
async def fake() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
async def upstream(fake: FakeUpstream) -> AsyncIterator[Upstream]:
    async with fake.serving() as found:
        yield found


async def ask(upstream: Upstream, *, stream: bool = False, body: bytes = b"{}") -> tuple[Client, Releases, Lease]:
    client, releases = Client(), Releases()
    with releases.lease(upstream) as lease:
        await relay(upstream, call(body, stream=stream), client.answer, client, lease)
    return client, releases, lease


async def test_a_json_answer_passes_with_its_length(fake: FakeUpstream, upstream: Upstream) -> None:
    client, releases, _ = await ask(upstream, body=b'{"model": "m"}')
    assert client.body == b'{"ok":true}'
    assert (b"content-length", b"11") in client.headers
    assert client.complete
    assert releases.finished == [True]
    assert fake.heard[0].body == b'{"model": "m"}'
    assert fake.heard[0].headers["authorization"] == "Bearer child-key"
    assert "user-agent" not in fake.heard[0].headers


async def test_a_large_body_arrives_whole(fake: FakeUpstream, upstream: Upstream) -> None:
    body = bytes(range(256)) * 16_384
    await ask(upstream, body=body)
    assert fake.heard[0].body == body


async def test_json_calls_reuse_their_connection(fake: FakeUpstream, upstream: Upstream) -> None:
    await ask(upstream)
    await ask(upstream)
    assert fake.connections == 1


async def test_a_connection_is_not_reused_after_a_stream(fake: FakeUpstream, upstream: Upstream) -> None:
    go_on = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(b"data: 1\n\n")
        await go_on.wait()
        await wire.end_stream()

    fake.script = script
    client = Client()
    task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, client))
    await eventually(lambda: client.body != b"")
    go_on.set()
    await task
    assert fake.heard[0].headers["connection"] == "close"
    await ask(upstream)
    assert [heard.connection for heard in fake.heard] == [1, 2]


async def test_pings_are_no_progress(fake: FakeUpstream, upstream: Upstream) -> None:
    go_on = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(b":\n\n")
        await go_on.wait()
        await wire.chunk(b"data: 1\n\n")
        await wire.end_stream()

    fake.script = script
    client, releases = Client(), Releases()
    with releases.lease(upstream) as lease:
        task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, client, lease))
        await eventually(lambda: client.body == b":\n\n")
        before = lease.last_progress, client.answer.first_content
        go_on.set()
        await task
        assert before == (0.0, None)
        assert lease.last_progress > 0.0
        assert client.answer.first_content is not None
    assert releases.finished == [True]


async def test_a_stale_connection_is_replaced_once(fake: FakeUpstream, upstream: Upstream) -> None:
    await ask(upstream)

    async def close_the_first(heard: Heard, wire: Wire) -> None:
        if heard.connection == 1:
            wire.cut()
        else:
            await wire.answer(b"fresh")

    fake.script = close_the_first
    client, releases, _ = await ask(upstream)
    assert client.body == b"fresh"
    assert [heard.connection for heard in fake.heard] == [1, 1, 2]
    assert releases.finished == [True]


async def test_an_upstream_that_breaks_a_fresh_connection_is_not_asked_again(
    fake: FakeUpstream, upstream: Upstream
) -> None:
    async def script(heard: Heard, wire: Wire) -> None:
        wire.cut()

    fake.script = script
    with pytest.raises(UpstreamFailed) as failure:
        await ask(upstream)
    assert failure.value.retry_after == 1
    assert [heard.connection for heard in fake.heard] == [1]


async def test_a_dead_upstream_is_a_failure(fake: FakeUpstream) -> None:
    async with fake.serving() as upstream:
        gone = Upstream("http://127.0.0.1:1", Pool("127.0.0.1", 1), "")
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await ask(gone)
    with pytest.raises(UpstreamFailed, match="being stopped"):
        await ask(upstream)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=["length", "chunked", "no HTTP"],
)
async def test_a_break_before_the_first_byte_leaves_the_client_untold(
    answer: bytes, fake: FakeUpstream, upstream: Upstream
) -> None:
    async def script(heard: Heard, wire: Wire) -> None:
        await wire.say(answer)
        wire.writer.close()

    fake.script = script
    client, releases = Client(), Releases()
    with pytest.raises(UpstreamFailed), releases.lease(upstream) as lease:
        await relay(upstream, call(), client.answer, client, lease)
    assert not client.answer.started
    assert releases.finished == [False]


async def test_an_error_answer_is_translated_and_ends_the_lease(fake: FakeUpstream, upstream: Upstream) -> None:
    told = b'{"error":{"code":400,"message":"no","type":"invalid_request_error"}}'
    fake.script = lambda heard, wire: wire.answer(told, status="400 Bad Request")
    client, releases, _ = await ask(upstream)
    assert client.answer.status == 400
    assert json.loads(client.body)["error"]["code"] == "invalid_request"
    assert releases.finished == [True]


async def test_an_endless_error_answer_is_cut(fake: FakeUpstream, upstream: Upstream) -> None:
    async def script(heard: Heard, wire: Wire) -> None:
        await wire.say(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await wire.chunk(b"x" * 65536)

    fake.script = script
    client, releases, _ = await ask(upstream)
    assert client.answer.status == 500
    assert len(client.body) < 4096
    assert releases.finished == [False]


async def test_cancelling_closes_the_upstreams_connection(fake: FakeUpstream, upstream: Upstream) -> None:
    gone = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(b"data: 1\n\n")
        await wire.peer_gone()
        gone.set()

    fake.script = script
    client = Client()
    task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, client))
    await eventually(lambda: client.body != b"")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1):
        await gone.wait()


async def test_bytes_pass_untouched_however_they_are_cut(fake: FakeUpstream, upstream: Upstream) -> None:
    text = (
        "data: " + json.dumps({"t": "ünï 模型 🎈"}, ensure_ascii=False) + "\r\n\r\n: note\n\nid: 7\ndata: x\n\n"
    ).encode()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        for start in range(0, len(text), 3):
            await wire.chunk(text[start : start + 3])
        await wire.end_stream()

    fake.script = script
    client, _, _ = await ask(upstream, stream=True)
    assert client.body == text


async def test_a_slow_client_stops_the_upstream(fake: FakeUpstream, upstream: Upstream) -> None:
    limit = 64 * 1024 * 1024
    said = 0

    async def script(heard: Heard, wire: Wire) -> None:
        nonlocal said
        await wire.begin_stream()
        while said < limit:
            await wire.chunk(b"x" * 65536)
            said += 65536
        await wire.end_stream()

    fake.script = script
    client = Client()
    task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, client))
    await eventually(lambda: client.sent > 0)
    assert client.on_full is not None
    client.on_full()
    at_rest = -1
    while at_rest != said + client.sent:  # until neither moves, as all buffers in between are full
        at_rest = said + client.sent
        for _ in range(100):
            await turn()
    assert said < limit
    assert client.on_ready is not None
    client.on_ready()
    await task
    assert client.sent == limit
    assert {client.on_full, client.on_ready} == {None}


class Shout:
    """A detour that asks for something else, and tells the answer in capitals."""

    body = b'{"shout":true}'

    def sink(self, inner: Sink, on_progress: Callable[[], None]) -> Sink:
        return Capitals(inner, on_progress)


@dataclass
class Capitals:
    inner: Sink
    on_progress: Callable[[], None]
    held: bytes = b""

    def head(self, status: int, headers: RawHeaders) -> None:
        self.inner.head(status, [(b"content-type", b"text/plain")])

    def body(self, chunk: bytes) -> None:
        self.held += chunk.upper()
        self.on_progress()

    def end(self) -> None:
        self.inner.body(self.held)
        self.inner.end()

    def broke(self, error: ConnectionBroken) -> None:
        self.inner.broke(error)


async def test_a_detour_changes_both_ways_and_keeps_the_lease_alive(fake: FakeUpstream, upstream: Upstream) -> None:
    go_on = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(b"data: ")
        await go_on.wait()
        await wire.chunk(b"x")
        await wire.end_stream()

    fake.script = script
    client, releases = Client(), Releases()
    asked = call(b"{}")
    asked.detour = Shout()
    with releases.lease(upstream) as lease:
        task = asyncio.create_task(relay(upstream, asked, client.answer, client, lease))
        await eventually(lambda: lease.last_progress > 0.0)
        assert not client.answer.started
        go_on.set()
        await task
    assert client.body == b"DATA: X"
    assert client.headers == [(b"content-type", b"text/plain")]
    assert (fake.heard[0].body, fake.heard[0].headers["connection"]) == (b'{"shout":true}', "close")
    assert releases.finished == [True]


async def test_a_connection_that_brought_an_error_is_used_again(fake: FakeUpstream, upstream: Upstream) -> None:
    fake.script = lambda heard, wire: wire.answer(b'{"error":{"message":"no"}}', status="400 Bad Request")
    await ask(upstream)
    await ask(upstream)
    assert fake.connections == 1


async def test_an_answer_without_a_body(fake: FakeUpstream, upstream: Upstream) -> None:
    fake.script = lambda heard, wire: wire.say(b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n")
    client, releases, _ = await ask(upstream)
    assert (client.status, client.body, client.complete) == (204, b"", True)
    assert releases.finished == [True]


async def test_an_answer_whose_end_cannot_be_told_is_broken(fake: FakeUpstream, upstream: Upstream) -> None:
    class Deaf(Client):
        def end(self, body: bytes = b"") -> None:
            raise RuntimeError

    client, releases = Deaf(), Releases()
    with releases.lease(upstream) as lease, pytest.raises(UpstreamFailed):
        async with asyncio.timeout(5):
            await relay(upstream, call(), client.answer, client, lease)
    assert releases.finished == [True], "the upstream was done with it"


async def test_who_leaves_before_anything_was_sent_leaves_an_idle_slot() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with contextlib.ExitStack() as others:
            for _ in range(3):  # more than wait to be accepted, so that the next one waits
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
            pool = Pool("127.0.0.1", port)
            upstream, client, releases = Upstream(f"http://127.0.0.1:{port}", pool, "Bearer x"), Client(), Releases()

            async def one() -> None:
                with releases.lease(upstream) as lease:
                    await relay(upstream, call(), client.answer, client, lease)

            task = asyncio.create_task(one())
            await turn()
            await turn()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert releases.finished == [True]


async def test_a_lease_knows_how_far_its_request_has_come(fake: FakeUpstream, upstream: Upstream) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await begin.wait()
        await wire.begin_stream()
        await wire.chunk(b":\n\n")
        await go_on.wait()
        await wire.end_stream()

    fake.script = script
    client, releases = Client(), Releases()
    with releases.lease(upstream) as lease:
        task = asyncio.create_task(relay(upstream, call(b" " * 1_000_000, stream=True), client.answer, client, lease))
        await eventually(lambda: len(fake.heard) == 1)
        assert 1.5 < lease.shown_by - time.monotonic() < 2.5, "a large request takes its time"
        begin.set()
        await eventually(lambda: client.body != b"")
        assert lease.shown_by == 0.0
        go_on.set()
        await task
