"""Arrays of inputs and documents are asked for in pieces and answered as one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.api.body import BodyBudget
from router.errors import QueueTimeout
from tests.fakes.serving import eventually
from tests.fakes.site import Site, site
from tests.fakes.upstream import Heard, Wire

INPUTS = [f"text {number}" for number in range(40)]
PATH = "/v1/embeddings"


def asked(heard: Heard) -> list[str]:
    inputs: list[str] = json.loads(heard.body)["input"]
    return inputs


def vectors(inputs: list[str], first: int = 0) -> list[dict[str, Any]]:
    return [
        {"embedding": [float(text.removeprefix("text "))], "index": first + index, "object": "embedding"}
        for index, text in enumerate(inputs)
    ]


def document(inputs: list[str]) -> dict[str, Any]:
    usage = {"prompt_tokens": 3 * len(inputs), "total_tokens": 3 * len(inputs)}
    return {"model": "chat", "object": "list", "usage": usage, "data": vectors(inputs)}


async def embed(heard: Heard, wire: Wire) -> None:
    await wire.answer(json.dumps(document(asked(heard))).encode(), kind="application/json; charset=utf-8")


async def ask(router: Site, inputs: list[str] = INPUTS, path: str = PATH, **fields: Any) -> httpx.Response:
    return await router.client.post(path, json={"model": "chat", "input": inputs, **fields})


def on_piece(number: int, do: Callable[[Heard, Wire], Awaitable[None]]) -> Callable[[Heard, Wire], Awaitable[None]]:
    """Embeds, but does something else with this piece, the first time it comes."""
    count: Iterator[int] = iter(range(1000))

    async def script(heard: Heard, wire: Wire) -> None:
        await (do if next(count) == number else embed)(heard, wire)

    return script


def record(router: Site) -> Any:
    (found,) = router.services.telemetry.recent.window(60, router.engine.clock())["chat"].records
    return found


@pytest.fixture(autouse=True)
def embedding(router: Site) -> None:
    router.upstream.script = embed


@pytest.mark.parametrize("path", [PATH, "/upstream/chat/v1/embeddings"])
async def test_forty_inputs_go_in_three_pieces(path: str, router: Site) -> None:
    answer = await ask(router, path=path, user="me")
    assert (answer.status_code, answer.json()) == (200, document(INPUTS))
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert [asked(heard) for heard in router.upstream.heard] == [INPUTS[:16], INPUTS[16:32], INPUTS[32:]]
    assert all(json.loads(heard.body)["user"] == "me" for heard in router.upstream.heard)
    assert len(router.engine.granted) == 3
    assert router.engine.finished == [True] * 3
    assert router.upstream.connections == 1


async def test_it_is_one_request_in_the_books(router: Site) -> None:
    await ask(router)
    found = record(router)
    assert (found.status, found.tokens_in, found.endpoint) == ("success", 120, PATH)
    (line,) = router.access_lines()
    assert "status=200" in line
    assert router.services.budget.held == 0


@pytest.mark.parametrize("inputs", [INPUTS[:16], ["one, two, three" * 20]])
async def test_sixteen_go_as_they_came(inputs: list[str], router: Site) -> None:
    body = json.dumps({"input": inputs, "model": "chat"}, indent=2).encode()
    router.upstream.script = lambda heard, wire: wire.answer(b'{"as": "it came"}')
    answer = await router.client.post(PATH, content=body)
    assert [heard.body for heard in router.upstream.heard] == [body]
    assert answer.content == b'{"as": "it came"}'


async def test_between_two_pieces_the_queue_is_asked(router: Site) -> None:
    model = router.engine.models["chat"]

    async def close_then_embed(heard: Heard, wire: Wire) -> None:
        model.open.clear()
        await embed(heard, wire)

    router.upstream.script = on_piece(0, close_then_embed)
    asking = asyncio.create_task(ask(router))
    await eventually(lambda: router.engine.waiting == 1 and not router.engine.leases)
    assert len(router.upstream.heard) == 1
    model.open.set()
    assert (await asking).json() == document(INPUTS)


async def test_a_client_that_leaves_stops_the_rest(router: Site) -> None:
    async def hang(heard: Heard, wire: Wire) -> None:
        await wire.peer_gone()

    router.upstream.script = on_piece(1, hang)
    asking = asyncio.create_task(ask(router))
    await eventually(lambda: len(router.upstream.heard) == 2)
    asking.cancel()
    await eventually(lambda: router.engine.finished == [True, False])
    await eventually(lambda: router.services.budget.held == 0)
    assert record(router).status == "cancelled"
    assert len(router.upstream.heard) == 2
    assert router.engine.waiting == 0


async def test_a_client_that_leaves_between_two_pieces_is_out_of_the_queue(router: Site) -> None:
    async def close_then_embed(heard: Heard, wire: Wire) -> None:
        router.engine.models["chat"].open.clear()
        await embed(heard, wire)

    router.upstream.script = on_piece(0, close_then_embed)
    asking = asyncio.create_task(ask(router))
    await eventually(lambda: router.engine.waiting == 1 and not router.engine.leases)
    asking.cancel()
    await eventually(lambda: router.engine.waiting == 0)
    await eventually(lambda: router.services.budget.held == 0)
    assert len(router.upstream.heard) == 1


async def test_the_first_error_is_the_answer(router: Site) -> None:
    error = {"code": 400, "message": "input is too large", "type": "exceed_context_size_error", "n_ctx": 512}

    async def refuse(heard: Heard, wire: Wire) -> None:
        await wire.answer(json.dumps({"error": error}).encode(), status="400 Bad Request")

    router.upstream.script = on_piece(1, refuse)
    answer = await ask(router)
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert (told["message"], told["code"], told["n_ctx"]) == ("input is too large", "context_length_exceeded", 512)
    assert len(router.upstream.heard) == 2
    assert router.engine.waiting == 0
    assert record(router).status == "client_error"


async def test_a_refusal_of_the_queue_is_the_answer(router: Site) -> None:
    async def refused_from_now_on(heard: Heard, wire: Wire) -> None:
        router.engine.models["chat"].refusal = QueueTimeout("late", retry_after=10)
        await embed(heard, wire)

    router.upstream.script = on_piece(1, refused_from_now_on)
    answer = await ask(router)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


async def test_a_piece_whose_server_dies_is_asked_for_again(router: Site) -> None:
    async def die(heard: Heard, wire: Wire) -> None:
        await wire.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        wire.cut()

    router.upstream.script = on_piece(1, die)
    assert (await ask(router)).json() == document(INPUTS)
    firsts = [asked(heard)[0] for heard in router.upstream.heard]
    assert list(dict.fromkeys(firsts)) == ["text 0", "text 16", "text 32"]
    assert router.engine.verdicts == [1]
    assert router.engine.finished == [True, False, True, True]


async def test_a_piece_that_is_answered_otherwise_is_an_error(router: Site) -> None:
    async def short(heard: Heard, wire: Wire) -> None:
        await wire.answer(json.dumps(document(asked(heard)[1:])).encode())

    router.upstream.script = on_piece(1, short)
    answer = await ask(router)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert "15 elements for 16 inputs" in answer.json()["error"]["message"]
    assert router.engine.waiting == 0


async def test_an_array_without_end_is_refused(router: Site) -> None:
    answer = await ask(router, ["a"] * 70000)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
    assert router.upstream.heard == []


async def test_answers_that_are_kept_count_against_the_budget(tmp_path: Path) -> None:
    size = len(json.dumps({"model": "chat", "input": INPUTS}, separators=(",", ":")))
    budget = BodyBudget(size + len(json.dumps(document(INPUTS[:16]))) + 100)
    async with site(tmp_path, budget=budget) as router:
        router.upstream.script = embed
        answer = await ask(router)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert len(router.upstream.heard) == 2
        assert (budget.held, router.engine.waiting) == (0, 0)


async def test_a_client_that_reads_slowly_is_waited_for(router: Site) -> None:
    """What it has not taken yet stays in the budget."""
    width = 100_000

    async def wide(heard: Heard, wire: Wire) -> None:
        items = [{"embedding": [0.25] * width, "index": n} for n in range(len(asked(heard)))]
        await wire.answer(json.dumps({"data": items}).encode())

    router.upstream.script = wide
    body = json.dumps({"model": "chat", "input": INPUTS}).encode()
    reader, writer = await router.address.connect()
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (PATH.encode(), len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert length > 20_000_000
    assert router.services.budget.held > length
    whole = json.loads(await reader.readexactly(length))
    assert [item["index"] for item in whole["data"]] == list(range(len(INPUTS)))
    await eventually(lambda: router.services.budget.held == 0)
    writer.close()
