"""The relay against an upstream on a real socket, with a client made of a list."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.errors import UpstreamFailed
from router.proxy.answer import Answer
from router.proxy.dialect import Dialect
from router.proxy.relay import Call, relay
from router.proxy.usage import UsageTap
from tests.fakes.serving import eventually
from tests.fakes.upstream import FakeUpstream, Heard, Wire


class Client:
    """The far end of an Answer."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.answer = Answer(self.take)

    async def take(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


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
    return Call("POST", "/v1/chat/completions", [], body, Dialect.OPENAI, "id", "application/json", stream)


@pytest.fixture
async def fake() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
async def upstream(fake: FakeUpstream) -> AsyncIterator[Upstream]:
    async with fake.serving() as found:
        yield found


async def ask(upstream: Upstream, *, stream: bool = False, body: bytes = b"{}") -> tuple[Client, Releases, Lease]:
    client, releases = Client(), Releases()
    async with releases.lease(upstream) as lease:
        await relay(upstream, call(body, stream=stream), client.answer, UsageTap(), lease)
    await client.answer.end()
    return client, releases, lease


async def test_a_json_answer_passes_with_its_length(fake: FakeUpstream, upstream: Upstream) -> None:
    client, releases, _ = await ask(upstream, body=b'{"model": "m"}')
    assert client.body == b'{"ok":true}'
    assert (b"content-length", b"11") in client.messages[0]["headers"]
    assert len(client.messages) == 2
    assert releases.finished == [True]
    assert fake.heard[0].body == b'{"model": "m"}'
    assert fake.heard[0].headers["authorization"] == "Bearer child-key"
    assert "user-agent" not in fake.heard[0].headers


async def test_a_large_body_arrives_whole_and_without_a_warning(fake: FakeUpstream, upstream: Upstream) -> None:
    body = bytes(range(256)) * 16_384
    with warnings.catch_warnings():
        warnings.simplefilter("error")
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
    task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, UsageTap()))
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
    async with releases.lease(upstream) as lease:
        task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, UsageTap(), lease))
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


async def test_an_upstream_that_never_answers_is_tried_twice(fake: FakeUpstream, upstream: Upstream) -> None:
    async def script(heard: Heard, wire: Wire) -> None:
        wire.cut()

    fake.script = script
    with pytest.raises(UpstreamFailed) as failure:
        await ask(upstream)
    assert failure.value.retry_after == 1
    assert len(fake.heard) == 2


async def test_a_dead_upstream_is_a_failure(fake: FakeUpstream) -> None:
    async with fake.serving() as upstream:
        gone = Upstream("http://127.0.0.1:1", upstream.session, "")
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
    with pytest.raises(UpstreamFailed):
        async with releases.lease(upstream) as lease:
            await relay(upstream, call(), client.answer, UsageTap(), lease)
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
    task = asyncio.create_task(relay(upstream, call(stream=True), client.answer, UsageTap()))
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
