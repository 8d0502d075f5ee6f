"""Upstreams that break before their clients have received anything, and streams that wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from router.config import ApiConfig
from router.errors import ModelBackingOff, ModelFailed, QueueTimeout, UpstreamStalled
from tests.fakes.serving import eventually
from tests.fakes.site import Site, site
from tests.fakes.upstream import Heard, Script, Wire
from tests.support.expect import expect_error

CHAT = b'{"model":"chat","messages":[]}'
STREAM = b'{"model":"chat","messages":[],"stream":true}'
DONE = b"data: 1\n\ndata: [DONE]\n\n"


@pytest.fixture
async def eager(tmp_path: Path) -> AsyncIterator[Site]:
    """A router that pings at once."""
    async with site(tmp_path, api=ApiConfig(stream_ping_sec=0.02)) as found:
        yield found


def first_fails(count: int, how: Callable[[Wire], Awaitable[None]], then: Script) -> Script:
    """The first so many requests fail in this way."""
    failed = 0

    async def script(heard: Heard, wire: Wire) -> None:
        nonlocal failed
        if failed < count:
            failed += 1
            await how(wire)
            wire.cut()
        else:
            await then(heard, wire)

    return script


async def at_once(wire: Wire) -> None: ...


async def after_its_head(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n")


async def after_a_ping(wire: Wire) -> None:
    await wire.begin_stream()
    await wire.chunk(b":\n\n")


async def a_stream(heard: Heard, wire: Wire) -> None:
    await wire.begin_stream()
    await wire.chunk(DONE)
    await wire.end_stream()
    wire.writer.close()


async def a_document(heard: Heard, wire: Wire) -> None:
    await wire.answer(b'{"ok":true}')


def replays(router: Site) -> float | None:
    return router.services.telemetry.registry.get_sample_value("router_replays_total", {"model": "chat"})


def outcomes(router: Site) -> list[str]:
    window = router.services.telemetry.recent.window(60, router.engine.clock())
    return [record.status for found in window.values() for record in found.records]


@pytest.mark.parametrize("how", [at_once, after_its_head])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_request_is_replayed_through_the_queue(
    count: int, how: Callable[[Wire], Awaitable[None]], router: Site
) -> None:
    router.upstream.script = first_fails(count, how, a_document)
    answer = await router.chat(CHAT)
    assert (answer.status_code, answer.content) == (200, b'{"ok":true}')
    assert [heard.body for heard in router.upstream.heard] == [CHAT] * (count + 1)
    assert router.engine.verdicts == [1] * count
    assert router.engine.finished == [False] * count + [True]
    assert replays(router) == count
    assert outcomes(router) == ["success"]


async def test_a_stream_is_replayed_as_long_as_only_pings_have_come(router: Site) -> None:
    router.upstream.script = first_fails(1, after_a_ping, a_stream)
    answer = await router.chat(STREAM)
    assert answer.content == b":\n\n" + DONE
    assert replays(router) == 1


def untold_first(events: bytes, ends: Callable[[Wire], Awaitable[None]]) -> Script:
    async def script(heard: Heard, wire: Wire) -> None:
        if json.loads(heard.body).get("stream"):
            await wire.begin_stream()
            await wire.chunk(events)
            await ends(wire)
        else:
            await wire.answer(b'{"ok":true}')

    return script


async def with_its_end(wire: Wire) -> None:
    await wire.end_stream()


async def with_a_break(wire: Wire) -> None:
    wire.cut()


FINISHED = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":%s}}\n\n'


@pytest.mark.parametrize(
    ("events", "ends", "finished"),
    [
        (FINISHED % b"9" + b"data: [DONE]\n\n", with_its_end, True),
        (FINISHED % b"null" + b"data: [DONE]\n\n", with_its_end, True),
        (FINISHED % b"9" + b"data: [DONE]\n\n", with_a_break, False),
        (b"data: what\n\n", with_its_end, False),
    ],
)
async def test_what_a_stream_cannot_tell_is_asked_for_again_at_once(
    events: bytes, ends: Callable[[Wire], Awaitable[None]], finished: bool, router: Site
) -> None:
    asked = b'{"model":"chat","messages":[{"role":"user","content":"Hi"}]}'
    router.upstream.script = untold_first(events, ends)
    answer = await router.chat(asked)
    assert (answer.status_code, answer.content) == (200, b'{"ok":true}')
    assert [heard.body == asked for heard in router.upstream.heard] == [False, True]
    assert router.engine.verdicts == [], "the upstream is well"
    assert router.engine.finished == [finished, True]
    assert not replays(router)
    assert outcomes(router) == ["success"]


async def test_three_times_is_enough(router: Site) -> None:
    router.upstream.script = first_fails(9, at_once, a_document)
    answer = await router.chat(CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert len(router.upstream.heard) == 3
    assert router.engine.finished == [False] * 3
    assert outcomes(router) == ["server_error"]


@pytest.mark.parametrize(
    ("refusal", "header"),
    [
        (ModelBackingOff("pauses", retry_after=4), ("retry-after", "4")),
        (QueueTimeout("late", retry_after=10), ("retry-after", "10")),
        (ModelFailed("corrupt"), ("x-should-retry", "false")),
    ],
)
async def test_what_the_queue_says_to_a_replay_is_told(
    refusal: ModelFailed, header: tuple[str, str], router: Site
) -> None:
    async def refused_from_now_on(wire: Wire) -> None:
        router.engine.models["chat"].refusal = refusal

    router.upstream.script = first_fails(1, refused_from_now_on, a_document)
    answer = await router.chat(CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, refusal.code)
    assert answer.headers[header[0]] == header[1]


async def test_nothing_is_replayed_once_there_was_content(router: Site) -> None:
    go_on = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(b"data: 1\n\n")
        await go_on.wait()
        wire.cut()

    router.upstream.script = script
    body = await read_until_cut(router, lambda _: go_on.set())
    assert body.startswith(b'data: 1\n\ndata: {"error":{')
    assert len(router.upstream.heard) == 1


async def test_a_request_that_stalls_before_its_first_byte_gets_an_error_and_no_replay(router: Site) -> None:
    async def silent(heard: Heard, wire: Wire) -> None:
        await wire.peer_gone()

    router.upstream.script = silent
    asking = asyncio.create_task(router.chat(CHAT))
    await eventually(lambda: len(router.upstream.heard) == 1)
    router.engine.leases[0].abort(UpstreamStalled("No progress for 120 s."))
    expect_error(await asking, 504, code="upstream_stalled")
    assert len(router.upstream.heard) == 1


async def test_a_control_call_is_not_replayed(router: Site) -> None:
    router.upstream.script = first_fails(9, at_once, a_document)
    answer = await router.client.get("/props?model=chat")
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "1")
    assert len(router.upstream.heard) == 1


# --- streams that wait


async def read_until_cut(router: Site, each: Callable[[bytes], None], path: str = "/v1/chat/completions") -> bytes:
    """What came of a stream that must not end as a whole one; `each` gets all that has come, after every chunk."""
    got = bytearray()
    try:
        async with router.client.stream("POST", path, content=STREAM) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/event-stream"
            async for chunk in answer.aiter_bytes():
                got += chunk
                each(bytes(got))
    except httpx.RemoteProtocolError:
        return bytes(got)
    raise AssertionError("the answer ended like one that is whole")


async def test_a_waiting_stream_is_told_its_place_until_the_first_token(eager: Site) -> None:
    first_token = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await first_token.wait()
        await a_stream(heard, wire)

    eager.upstream.script = script
    eager.engine.models["chat"].open.clear()
    ahead = asyncio.create_task(eager.chat(CHAT))
    await eventually(lambda: eager.engine.waiting == 1)
    got = b""
    async with eager.client.stream("POST", "/v1/chat/completions", content=STREAM) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        async for chunk in answer.aiter_bytes():
            got += chunk
            if b"queue position 2" in got:
                eager.engine.models["chat"].open.set()
            if b"processing" in got:
                first_token.set()
    comments, _, content = got.partition(b"data: ")
    assert b"data: " + content == DONE
    assert set(comments.split(b"\n\n")) <= {
        b": ping queue position 2, about 3 s, no slot",
        b": ping queue position 1, about 3 s, no slot",
        b": ping processing",
        b"",
    }
    assert comments.startswith(b": ping queue position 2, about 3 s, no slot\n\n")
    assert (await ahead).status_code == 200
    assert outcomes(eager) == ["success"] * 2


@pytest.mark.parametrize("body", [CHAT, b'{"model":"chat","stream":"true"}'])
async def test_who_asked_for_no_stream_gets_no_pings(body: bytes, eager: Site) -> None:
    eager.upstream.script = lambda heard, wire: (a_stream if heard.body == STREAM else a_document)(heard, wire)
    eager.engine.models["chat"].open.clear()
    asking = asyncio.create_task(eager.chat(body))
    await eventually(lambda: eager.engine.waiting == 1)
    async with eager.client.stream("POST", "/v1/chat/completions", content=STREAM) as answer:
        async for _ in answer.aiter_bytes():  # so both have waited for longer than a ping takes
            eager.engine.models["chat"].open.set()
    told = await asking
    assert told.content == b'{"ok":true}'
    assert told.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("/v1/chat/completions", b'data: {"error":{'),
        ("/v1/messages", b"event: error\ndata: "),
        ("/v1/responses", b"event: response.failed\ndata: "),
    ],
)
async def test_a_refusal_after_the_first_ping_is_an_event(path: str, start: bytes, eager: Site) -> None:
    model = eager.engine.models["chat"]
    model.open.clear()

    def refuse(_: bytes) -> None:
        model.refusal = QueueTimeout("late", retry_after=10)
        model.open.set()

    body = await read_until_cut(eager, refuse, path)
    pings, found, told = body.partition(start)
    assert found
    assert pings.replace(b": ping queue position 1, about 3 s, no slot\n\n", b"") == b""
    assert b"late" in told
    assert outcomes(eager) == ["server_error"]


async def test_an_error_of_the_upstream_after_the_first_ping_is_an_event(eager: Site) -> None:
    pinged = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await pinged.wait()
        await wire.answer(b'{"error":{"code":400,"message":"no","type":"invalid_request_error"}}', status="400 No")

    eager.upstream.script = script
    body = await read_until_cut(eager, lambda _: pinged.set())
    told = json.loads(body[body.index(b"data: ") + 6 :])
    assert told["error"]["code"] == "invalid_request"
    assert eager.engine.finished == [True]
    assert outcomes(eager) == ["client_error"]


async def test_a_document_in_place_of_the_stream_that_was_promised_is_an_error(eager: Site) -> None:
    pinged = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await pinged.wait()
        await wire.answer(b'{"ok":true}')

    eager.upstream.script = script
    body = await read_until_cut(eager, lambda _: pinged.set())
    assert b'"code":"upstream_failed"' in body
    assert b"ok" not in body


async def test_a_replay_goes_on_behind_pings(eager: Site) -> None:
    pinged = asyncio.Event()

    async def once_pinged(wire: Wire) -> None:
        await pinged.wait()

    eager.upstream.script = first_fails(1, once_pinged, a_stream)
    got = b""
    async with eager.client.stream("POST", "/v1/chat/completions", content=STREAM) as answer:
        async for chunk in answer.aiter_bytes():
            got += chunk
            pinged.set()
    assert got.endswith(DONE)
    assert got.replace(b": ping processing\n\n", b"") == DONE
    assert replays(eager) == 1


async def test_who_leaves_between_pings_is_out_of_the_queue(eager: Site) -> None:
    eager.engine.models["chat"].open.clear()
    reader, writer = await eager.address.connect()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(STREAM))
    writer.write(STREAM)
    await reader.readuntil(b": ping queue position 1, about 3 s, no slot\n\n")
    writer.close()
    await eventually(lambda: eager.engine.waiting == 0)
    await eventually(lambda: outcomes(eager) == ["cancelled"])
    assert eager.upstream.heard == []
