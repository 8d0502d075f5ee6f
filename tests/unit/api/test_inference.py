"""Relayed POST paths as a client meets them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from router.api.app import create_api
from router.api.body import BodyBudget
from router.api.endpoints import ENDPOINTS
from router.api.routing import Routing
from router.config import ApiConfig
from router.core.types import Priority
from router.errors import ModelFailed, QueueFull, QueueTimeout, UpstreamStalled
from tests.fakes.serving import eventually
from tests.fakes.site import Site, site
from tests.fakes.upstream import Heard, Script, Wire
from tests.support.expect import expect_error

POSTS = [endpoint.path for endpoint in ENDPOINTS if endpoint.model_in == "json"]
CHAT = b'{"model":"chat","messages":[]}'


def stream_of(*events: bytes, then: Callable[[Wire], Awaitable[None]] | None = None) -> Script:
    async def script(heard: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        for event in events:
            await wire.chunk(event)
        await (then or Wire.end_stream)(wire)

    return script


async def read_until_cut(router: Site, path: str, each: Callable[[], None]) -> bytes:
    """What came of an answer that must not end as a whole one; `each` is called after every chunk."""
    got = bytearray()
    try:
        async with router.client.stream("POST", path, json={"model": "chat", "stream": True}) as answer:
            async for chunk in answer.aiter_bytes():
                got += chunk
                each()
    except httpx.RemoteProtocolError:
        return bytes(got)
    raise AssertionError("the answer ended like one that is whole")


def raw_chat(*headers: bytes) -> bytes:
    lines = (b"POST /v1/chat/completions HTTP/1.1", b"Host: localhost", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


RAW_CHAT = raw_chat(b"Content-Length: %d" % len(CHAT)) + CHAT


def records(router: Site) -> list[tuple[str, int, int, str]]:
    window = router.services.telemetry.recent.window(60, router.engine.clock())
    return [
        (record.status, record.tokens_in, record.tokens_out, record.priority)
        for found in window.values()
        for record in found.records
    ]


@pytest.mark.parametrize("path", POSTS)
async def test_every_path_goes_to_the_same_path_of_the_child(path: str, router: Site) -> None:
    answer = await router.client.post(path + "?beta=true", content=CHAT)
    assert (answer.status_code, answer.content) == (200, b'{"ok":true}')
    heard = router.upstream.heard[-1]
    assert (heard.method, heard.target, heard.body) == ("POST", path + "?beta=true", CHAT)
    assert router.engine.finished == [True]


async def test_an_alias_leads_to_its_model(router: Site) -> None:
    await router.chat(b'{"model":"gpt-4o"}')
    assert router.engine.granted == [("chat", Priority.NORMAL)]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_json_is_json_whatever_it_is_called(kind: str, router: Site) -> None:
    assert (await router.chat(CHAT, content_type=kind)).status_code == 200
    assert router.upstream.heard[-1].headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("body", "header", "priority"),
    [
        (b'{"model":"chat"}', {"x-request-priority": "high"}, Priority.HIGH),
        (b'{"model":"chat","service_tier":"flex"}', {}, Priority.LOW),
        (b'{"model":"chat","service_tier":"flex"}', {"x-request-priority": "2"}, Priority.NORMAL),
    ],
)
async def test_the_class_reaches_the_queue(
    body: bytes, header: dict[str, str], priority: Priority, router: Site
) -> None:
    await router.chat(body, **header)
    assert router.engine.granted == [("chat", priority)]
    assert records(router)[0][3] == priority.name.lower()


@pytest.mark.parametrize(
    ("path", "n", "width"),
    [
        ("/v1/chat/completions", "3", 3),
        ("/v1/completions", "2", 2),
        ("/v1/chat/completions", "null", 1),
        ("/v1/chat/completions", "0", 1),
        ("/v1/chat/completions", "-4", 1),
        ("/v1/chat/completions", '"5"', 1),
        ("/v1/chat/completions", "[5]", 1),
        ("/v1/chat/completions", "2.0", 2),
        ("/v1/chat/completions", "1e400", 1),
        ("/v1/chat/completions", '4,"n_cmpl":2', 2),
        ("/completion", 'null,"n_cmpl":3', 3),
        ("/v1/messages", "9", 1),
        ("/v1/embeddings", "9", 1),
    ],
)
async def test_each_of_several_answers_takes_a_slot(path: str, n: str, width: int, router: Site) -> None:
    await router.client.post(path, content=f'{{"model":"chat","n":{n}}}'.encode())
    assert router.engine.widths == [width]


@pytest.mark.parametrize(
    ("prompt", "n", "width"),
    [
        ('"one"', 1, 1),
        ('["one"]', 1, 1),
        ('["one","two"]', 1, 2),
        ('["one","two"]', 2, 4),
        ('["one","two","three"]', 2, 4),
        ("[[1,2],[3]]", 1, 2),
        ('["one",[3,4],{"prompt_string":"x"}]', 1, 3),
        ("[1,2,3]", 1, 1),
        ('["one",2,"three"]', 2, 2),
        ("[]", 1, 1),
        (json.dumps(["x" * 1000] * 300), 1, 4),
    ],
)
async def test_each_of_several_prompts_takes_a_slot_as_far_as_there_are_any(
    prompt: str, n: int, width: int, router: Site
) -> None:
    await router.client.post("/v1/completions", content=f'{{"model":"chat","prompt" : {prompt},"n":{n}}}'.encode())
    assert router.engine.widths == [width]


async def test_a_list_within_another_member_is_none_of_prompts(router: Site) -> None:
    await router.client.post("/v1/completions", content=b'{"model":"chat","prompt":"a","x":{"prompt":["b","c"]}}')
    assert router.engine.widths == [1]


@pytest.mark.parametrize("name", ["n", "n_cmpl"])
async def test_more_answers_than_slots_are_refused_before_anything_is_loaded(name: str, router: Site) -> None:
    answer = await router.client.post("/v1/chat/completions", content=f'{{"model":"cold","{name}":5}}'.encode())
    message = expect_error(answer, 400, param="n")["message"]
    assert "5 answers" in message
    assert "4 slot" in message
    assert router.engine.widths == []


async def test_an_unknown_class_is_refused(router: Site) -> None:
    answer = await router.chat(x_request_priority="urgent")
    expect_error(answer, 400, param="X-Request-Priority")
    assert router.engine.granted == []


@pytest.mark.parametrize(
    "body",
    [b'{"model":"chat"', b"[1]", b"null", b"", b'{"model":"\xff"}', b'{"model":"chat","temperature":NaN}'],
)
async def test_a_body_that_is_no_json_object_goes_nowhere(body: bytes, router: Site) -> None:
    answer = await router.chat(body)
    expect_error(answer, 400)
    assert router.upstream.heard == []


@pytest.mark.parametrize("body", [b"{}", b'{"model":""}', b'{"model":7}', b'{"model":null}', b'{"model":["chat"]}'])
async def test_a_missing_model_is_named(body: bytes, router: Site) -> None:
    answer = await router.chat(body)
    expect_error(answer, 400, param="model")


@pytest.mark.parametrize("name", ["nope", "\\ud800", "CHAT", " chat", "a" * 100_000])
async def test_an_unknown_model_is_not_found(name: str, router: Site) -> None:
    answer = await router.chat(b'{"model":"%s"}' % name.encode())
    expect_error(answer, 404, code="model_not_found", param="model")
    assert len(answer.content) < 1000
    assert records(router) == []


async def test_anthropics_path_errs_in_its_own_words(router: Site) -> None:
    answer = await router.client.post("/v1/messages", json={"model": "nope"})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    assert answer.json()["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(max_body_mb=1)) as router:
        answer = await router.chat(b" " * (1024 * 1024 + 1))
        expect_error(answer, 413, code="request_too_large")
        huge = raw_chat(b"Content-Length: 99999999999", b"Connection: close")
        assert (await router.address.say(huge)).startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_over_the_limit_is_refused_on_the_way(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(max_body_mb=1)) as router:
        reader, writer = await router.address.connect()
        writer.write(raw_chat(b"Transfer-Encoding: chunked"))
        for _ in range(17):
            writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            await writer.drain()
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        assert router.services.budget.held == 0


async def test_more_than_all_may_hold_is_put_off(tmp_path: Path) -> None:
    async with site(tmp_path, budget=BodyBudget(50)) as router:
        router.engine.models["chat"].open.clear()
        waiting = asyncio.create_task(router.chat(CHAT))
        await eventually(lambda: router.engine.waiting == 1)
        answer = await router.chat(CHAT)
        expect_error(answer, 503, code="overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 59
        router.engine.models["chat"].open.set()
        assert (await waiting).status_code == 200
        assert router.services.budget.held == 0


async def test_a_compressed_body_is_refused(router: Site) -> None:
    answer = await router.chat(gzip.compress(CHAT), content_encoding="gzip")
    expect_error(answer, 415, code="unsupported_content_encoding")


async def test_a_length_beside_chunks_is_refused_and_the_connection_closed(router: Site) -> None:
    hidden = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    smuggled = raw_chat(b"Content-Length: 4", b"Transfer-Encoding: chunked") + hidden
    answer = await router.address.say(smuggled)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_stream_passes_byte_for_byte(router: Site) -> None:
    events = (
        b": ping\n\n",
        'data: {"choices":[{"delta":{"content":"ünï 🎈"}}]}\r\n\r\n'.encode(),
        b'data: {"usage":{"prompt_tokens":4,"completion_tokens":6}}\n\ndata: [DONE]\n\n',
    )
    router.upstream.script = stream_of(*events)
    answer = await router.chat(b'{"model":"chat","stream":true}')
    assert answer.content == b"".join(events)
    assert answer.headers["content-type"] == "text/event-stream"
    assert "content-encoding" not in answer.headers
    assert router.engine.finished == [True]
    assert records(router) == [("success", 4, 6, "normal")]


async def test_what_llama_cpp_tells_of_its_work_is_recorded(router: Site) -> None:
    timings = b'"timings":{"cache_n":3,"prompt_n":1,"prompt_ms":250,"predicted_n":6,"predicted_ms":1500}'
    router.upstream.script = stream_of(b"data: {" + timings + b"}\n\n", b"data: [DONE]\n\n")
    await router.chat(b'{"model":"chat","stream":true}')
    (record,) = router.services.telemetry.recent.window(60, router.engine.clock())["chat"].records
    assert (record.tokens_in, record.tokens_out, record.tokens_cached) == (4, 6, 3)
    assert (record.prompt_seconds, record.generation_seconds) == (0.25, 1.5)


@pytest.mark.parametrize(
    ("path", "start", "type_"),
    [
        ("/v1/chat/completions", b'data: {"error":{', None),
        ("/v1/messages", b"event: error\ndata: ", "error"),
        ("/v1/responses", b"event: response.failed\ndata: ", "response.failed"),
    ],
)
async def test_a_stream_that_breaks_says_so_and_is_aborted(
    path: str, start: bytes, type_: str | None, router: Site
) -> None:
    go_on = asyncio.Event()

    async def cut(wire: Wire) -> None:
        await go_on.wait()
        wire.cut()

    router.upstream.script = stream_of(b"data: 1\n\ndata: {", then=cut)
    body = await read_until_cut(router, path, go_on.set)
    told = body.removeprefix(b"data: 1\n\ndata: {\n\n")
    assert told.startswith(start)
    assert b"[DONE]" not in body
    assert json.loads(told[told.index(b"{") :]).get("type") == type_
    assert router.engine.finished == [False]
    assert records(router)[0][0] == "server_error"


async def test_a_json_answer_that_breaks_is_aborted(router: Site) -> None:
    go_on = asyncio.Event()

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await go_on.wait()
        wire.cut()

    router.upstream.script = script
    assert await read_until_cut(router, "/v1/chat/completions", go_on.set) == b"{"


async def test_what_the_engine_ends_in_mid_stream_is_told(router: Site) -> None:
    router.upstream.script = stream_of(b"data: 1\n\n", then=Wire.peer_gone)

    def stall() -> None:
        for lease in router.engine.leases:
            lease.abort(UpstreamStalled("No progress for 120 s."))

    body = await read_until_cut(router, "/v1/chat/completions", stall)
    assert b'"code":"upstream_stalled"' in body


@pytest.mark.parametrize(
    ("refusal", "status", "header"),
    [
        (QueueFull("full", retry_after=7), 429, ("retry-after", "7")),
        (QueueTimeout("late", retry_after=900), 503, ("retry-after", "59")),
        (ModelFailed("bad magic"), 503, ("x-should-retry", "false")),
    ],
)
async def test_the_queues_refusals_reach_the_client(
    refusal: QueueFull, status: int, header: tuple[str, str], router: Site
) -> None:
    router.engine.models["chat"].refusal = refusal
    answer = await router.chat(CHAT)
    assert expect_error(answer, status)["message"] == refusal.message
    assert answer.headers[header[0]] == header[1]


async def test_the_upstreams_errors_keep_their_words(router: Site) -> None:
    told = b'{"error":{"code":400,"message":"Expected \'messages\' to be an array","type":"invalid_request_error"}}'
    router.upstream.script = lambda heard, wire: wire.answer(told, status="400 Bad Request")
    answer = await router.chat(b'{"model":"chat","messages":"str"}')
    error = expect_error(answer, 400, code="invalid_request")
    assert error["message"] == "Expected 'messages' to be an array"
    assert records(router)[0][0] == "client_error"


async def test_what_the_model_cannot_do_is_not_retried(router: Site) -> None:
    told = b'{"error":{"code":501,"message":"no embeddings","type":"not_supported_error"}}'
    router.upstream.script = lambda heard, wire: wire.answer(told, status="501 Not Implemented")
    answer = await router.client.post("/v1/embeddings", json={"model": "chat", "input": "x"})
    expect_error(answer, 400, code="unsupported_by_model")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_waiter_that_leaves_is_out_of_the_queue(router: Site) -> None:
    router.engine.models["chat"].open.clear()
    _, writer = await router.address.connect()
    writer.write(RAW_CHAT)
    await eventually(lambda: router.engine.waiting == 1)
    writer.close()
    await eventually(lambda: router.engine.waiting == 0)
    await eventually(lambda: records(router) == [("cancelled", 0, 0, "normal")])
    assert router.engine.granted == []
    assert router.services.budget.held == 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_ends_the_work(streamed: bool, router: Site) -> None:
    gone = asyncio.Event()

    async def until_gone(wire: Wire) -> None:
        await wire.peer_gone()
        gone.set()

    async def silent(heard: Heard, wire: Wire) -> None:
        await until_gone(wire)

    router.upstream.script = stream_of(b"data: 1\n\n", then=until_gone) if streamed else silent
    reader, writer = await router.address.connect()
    writer.write(RAW_CHAT)
    await eventually(lambda: len(router.upstream.heard) == 1)
    if streamed:
        await reader.readuntil(b"data: 1\n\n")
    writer.close()
    async with asyncio.timeout(1):
        await gone.wait()
    await eventually(lambda: router.engine.finished == [False])
    assert records(router)[0][0] == "cancelled"


async def test_a_form_names_its_model_and_passes_untouched(router: Site) -> None:
    form = httpx.Request(
        "POST", "http://x", files={"file": ("a.wav", bytes(range(256)) * 99)}, data={"model": "org/m:q4"}
    )
    kind = form.headers["content-type"]
    body = form.read()
    answer = await router.client.post("/v1/audio/transcriptions", content=body, headers={"content-type": kind})
    assert answer.status_code == 200
    heard = router.upstream.heard[-1]
    assert router.engine.granted == [("org/m:q4", Priority.NORMAL)]
    assert (heard.headers["content-type"], heard.body) == (kind, body)


async def test_a_form_without_a_model_is_refused(router: Site) -> None:
    answer = await router.client.post("/v1/audio/transcriptions", files={"file": b"x"})
    expect_error(answer, 400, param="model")


async def test_a_thousand_streams_in_a_row_and_as_many_side_by_side(router: Site) -> None:
    router.upstream.script = stream_of(b"data: 1\n\n", b"data: [DONE]\n\n")
    body = b'{"model":"chat","stream":true}'

    async def one() -> bool:
        return (await router.chat(body)).content == b"data: 1\n\ndata: [DONE]\n\n"

    assert all([await one() for _ in range(1000)])
    for _ in range(4):
        assert all(await asyncio.gather(*(one() for _ in range(250))))
    assert router.engine.leases == []
    assert all(router.engine.finished)


@pytest.mark.parametrize(
    ("method", "path", "short"),
    [
        ("POST", "/v1/chat/completions", True),
        ("GET", "/v1/chat/completions", False),
        ("POST", "/v1/chat/completions\n", False),
        ("GET", "/props", False),
        ("POST", "/v1/models/load", False),
    ],
)
async def test_only_exact_calls_take_the_short_cut(method: str, path: str, short: bool, router: Site) -> None:
    api = create_api(router.services)
    app, _ = Routing(api, router.services)({"type": "http", "method": method, "path": path, "headers": []})
    assert (app is not api) == short
