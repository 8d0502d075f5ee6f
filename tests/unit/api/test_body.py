"""Reading bodies in: limits, encodings, and JSON that is none."""

from __future__ import annotations

import json

import pytest
from starlette.types import Message, Receive

from router.api.body import MIB, BodyBudget, parse_json, read_body
from router.api.disconnect import ClientDisconnected
from router.errors import BodyTooLarge, InvalidRequest, Overloaded, UnsupportedEncoding


def client_that_says(*chunks: bytes, gone: bool = False) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if gone:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False
    said = iter(messages)

    async def receive() -> Message:
        return next(said)

    return receive


def scope(**headers: str) -> dict[str, object]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


async def test_chunks_become_one_body_that_is_counted_while_held() -> None:
    budget = BodyBudget(100)
    with budget.hold() as hold:
        assert await read_body(scope(), client_that_says(b"ab", b"", b"cd"), hold, limit=4) == b"abcd"
        assert budget.held == 4
    assert budget.held == 0


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    def unread() -> Message:
        raise AssertionError

    with BodyBudget(100).hold() as hold, pytest.raises(BodyTooLarge):
        await read_body(scope(content_length="5"), unread, hold, limit=4)  # type: ignore[arg-type]


async def test_a_chunked_body_is_refused_where_it_passes_the_limit() -> None:
    budget = BodyBudget(100)
    with budget.hold() as hold, pytest.raises(BodyTooLarge):
        await read_body(scope(), client_that_says(b"abc", b"de"), hold, limit=4)
    assert budget.held == 0


async def test_bodies_that_are_too_much_together_are_put_off() -> None:
    budget = BodyBudget(5)
    with budget.hold() as first, budget.hold() as second:
        await read_body(scope(), client_that_says(b"abcd"), first, limit=4)
        with pytest.raises(Overloaded) as refusal:
            await read_body(scope(), client_that_says(b"ef"), second, limit=4)
        assert refusal.value.retry_after
    assert budget.held == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_compressed_bodies_are_refused(encoding: str) -> None:
    with BodyBudget(100).hold() as hold, pytest.raises(UnsupportedEncoding):
        await read_body(scope(content_encoding=encoding), client_that_says(b"x"), hold, limit=4)


async def test_identity_is_no_compression() -> None:
    with BodyBudget(100).hold() as hold:
        assert await read_body(scope(content_encoding="Identity"), client_that_says(b"x"), hold, limit=4) == b"x"


async def test_a_client_that_goes_while_sending() -> None:
    budget = BodyBudget(100)
    with budget.hold() as hold, pytest.raises(ClientDisconnected):
        await read_body(scope(), client_that_says(b"x", gone=True), hold, limit=4)
    assert budget.held == 0


def test_only_what_routing_needs_is_read() -> None:
    found = parse_json(b'{"model":"m","stream":true,"service_tier":"flex","messages":[1]}')
    assert (found.model, found.stream, found.service_tier) == ("m", True, "flex")
    assert parse_json(b'{"stream":1}').stream is False


def test_the_last_of_two_models_counts_as_it_does_in_llama_server() -> None:
    assert parse_json(b'{"model":"a","model":"b"}').model == "b"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"x"',
        b"null",
        b'{"model":"\xff"}',
        b'\xef\xbb\xbf{"model":"m"}',
        json.dumps({"model": "m"}).encode("utf-16"),
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"model":"m"} x',
    ],
    ids=["empty", "cut", "list", "string", "null", "utf8", "bom", "utf16", "deep", "digits", "nan", "infinity", "rest"],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_json(body)
    assert "sys." not in refusal.value.message


def test_limits_are_told_in_megabytes() -> None:
    budget = BodyBudget(2 * MIB)
    with budget.hold() as hold, pytest.raises(Overloaded, match="2 MB"):
        hold.grow(3 * MIB)
