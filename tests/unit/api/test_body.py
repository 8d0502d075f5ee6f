"""Reading bodies in: limits and encodings."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive

from router.api.body import MIB, BodyBudget, read_body
from router.api.cycle import EXTENSION
from router.api.disconnect import ClientDisconnected
from router.errors import BodyTooLarge, Overloaded, UnsupportedEncoding


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


class Arrived:
    """A body that came with its head, or that is still on its way."""

    def __init__(self, body: bytes | None) -> None:
        self._body = body

    def taken_body(self) -> bytes | None:
        return self._body


def scope_with(body: bytes | None) -> dict[str, object]:
    return {"headers": [], "extensions": {EXTENSION: Arrived(body)}}


async def never() -> Message:
    raise AssertionError("there is nothing to wait for")


async def test_a_body_that_is_there_is_not_waited_for() -> None:
    budget = BodyBudget(100)
    with budget.hold() as hold:
        assert await read_body(scope_with(b"abcd"), never, hold, limit=4) == b"abcd"
        assert budget.held == 4
    with budget.hold() as hold:
        assert await read_body(scope_with(b""), never, hold, limit=4) == b""
    assert budget.held == 0


async def test_a_body_that_is_on_its_way_is_waited_for() -> None:
    with BodyBudget(100).hold() as hold:
        assert await read_body(scope_with(None), client_that_says(b"ab", b"c"), hold, limit=4) == b"abc"


async def test_limits_hold_for_a_body_that_is_there() -> None:
    budget = BodyBudget(3)
    with budget.hold() as hold, pytest.raises(BodyTooLarge):
        await read_body(scope_with(b"abcde"), never, hold, limit=4)
    with budget.hold() as hold, pytest.raises(Overloaded):
        await read_body(scope_with(b"abcd"), never, hold, limit=4)
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


def test_limits_are_told_in_megabytes() -> None:
    budget = BodyBudget(2 * MIB)
    with budget.hold() as hold, pytest.raises(Overloaded, match="2 MB"):
        hold.grow(3 * MIB)
