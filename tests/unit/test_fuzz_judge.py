"""What the fuzz takes for a fault: it would be of little use if it took nothing for one."""

from __future__ import annotations

import asyncio

import pytest

from tests.fuzz import exchanges
from tests.fuzz.budget import Budget
from tests.fuzz.exchanges import Target, judged
from tests.fuzz.outcome import Kind, Outcome
from tests.fuzz.upstreams import ANSWERS
from tests.support.router import free_port
from tests.support.wire import messages


def answer(status: int, body: bytes, *, source: bytes = b"") -> bytes:
    line = b"x-error-source: %b\r\n" % source if source else b""
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, line, len(body), body)


def told(code: str) -> bytes:
    return b'{"error":{"message":"m","type":"server_error","param":null,"code":"%b"}}' % code.encode()


@pytest.mark.parametrize(
    ("heard", "kinds"),
    [
        (answer(500, told("internal_error")), [Kind.FAULT]),
        (answer(502, told("upstream_failed")), [Kind.FAULT]),
        (answer(500, b""), [Kind.FAULT]),
        (answer(400, told("invalid_request")) + answer(503, told("queue_timeout")), [Kind.FAULT]),
        (answer(500, b"Internal Server Error"), [Kind.BREACH]),
        (answer(502, b'{"type":"error","error":{"type":"api_error","message":"m"}}'), [Kind.FAULT]),
        (b"what?\r\n\r\n", [Kind.BREACH]),
        (answer(500, told("upstream_error"), source=b"model"), []),
        (answer(400, told("invalid_request")), []),
        (answer(503, told("model_not_loaded")), []),
        (b"", []),
    ],
)
def test_answers_are_judged(heard: bytes, kinds: list[Kind]) -> None:
    assert [kind for kind, _ in judged(b"GET / HTTP/1.1", heard, Outcome())] == kinds


async def test_who_closes_without_an_answer_and_who_is_gone_are_found() -> None:
    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    target = Target(server.sockets[0].getsockname()[1])
    found = await exchanges.fuzz("x", lambda _: target.post("/", b""), target, 1, Budget(tries=1), whole=True)
    assert [finding.kind for finding in found.findings] == [Kind.BREACH, Kind.CRASH]
    server.close()
    await server.wait_closed()
    found = await exchanges.fuzz("x", lambda _: b"", target, 1, Budget(tries=1), whole=True)
    assert [finding.kind for finding in found.findings] == [Kind.CRASH, Kind.CRASH]


def test_upstream_answers_are_whole_before_they_are_spoiled() -> None:
    assert all(messages(answer) for answer in ANSWERS)


async def test_where_nobody_listens_is_not_asked_again_and_again() -> None:
    nobody = Target(free_port())
    outcome = await exchanges.fuzz(
        "w", lambda random: nobody.head("GET", "/"), nobody, 0, Budget(tries=999), whole=True
    )
    assert outcome.count(Kind.CRASH) == exchanges.AT_ONCE + 1
