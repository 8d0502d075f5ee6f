"""Answers of a model's server that are nearly right: cut, torn, mislabelled. The client may only be told so."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.fakes.site import Site, site
from tests.fakes.upstream import Heard, Wire
from tests.fuzz.budget import Budget
from tests.fuzz.exchanges import Target, error_in
from tests.fuzz.mutation import Mutator
from tests.fuzz.outcome import Finding, Kind, Outcome
from tests.support.wire import messages

WORK = "upstream"
AT_ONCE = 4
_DEADLINE = 20.0


def _answer(kind: str, body: bytes, *lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", f"content-type: {kind}", *lines, "", "")).encode() + body


def _document(body: bytes, status: bytes = b"200 OK") -> bytes:
    whole = _answer("application/json; charset=utf-8", body, f"content-length: {len(body)}")
    return whole.replace(b"200 OK", status, 1)


def _stream(*events: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return _answer("text/event-stream", chunks + b"0\r\n\r\n", "transfer-encoding: chunked")


def _event(**choice: object) -> bytes:
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, **choice}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8},"timings":{}}\n\n'
ANSWERS = (
    _document(b'{"id":"x","choices":[{"message":{"role":"assistant","content":"Hi"}}],"usage":{"prompt_tokens":2}}'),
    _document(b'{"error":{"code":400,"message":"no","type":"invalid_request_error"}}', b"400 Bad Request"),
    _document(b'{"error":{"code":500,"message":"no","type":"server_error"}}', b"500 Internal Server Error"),
    _stream(_event(delta={"role": "assistant", "content": None}), _event(delta={"content": "Hi"}),
            _event(delta={}, finish_reason="stop"), _USAGE, b"data: [DONE]\n\n"),
    _stream(b'error: {"code":500,"message":"x","type":"server_error"}\n\n'),
    b"HTTP/1.1 100 Continue\r\n\r\n" + _document(b"{}"),
    _answer("application/json", b'{"until":"close"}'),
)  # fmt: skip
_ASKED = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/embeddings", {"input": ["a"] * 40}),
    ("/tokenize", {"content": "Hi"}),
)
_MODEL = "chat"


async def fuzz(folder: Path, seed: int, budget: Budget) -> Outcome:
    """Have a fake answer nonsense to good requests, and look at what comes of it."""
    outcome, tries = Outcome(), iter(budget)
    async with _watched(outcome), _torn_upstream(folder) as (running, torn):
        target = Target(running.address.port)

        async def ask_some() -> None:
            for number in tries:
                random = Random(f"{seed}/{number}")
                answer, cut = _spoiled(random)
                path, body = random.choice(_ASKED)
                torn[str(number)] = answer
                outcome.tries[WORK] += 1
                said = json.dumps({"model": _MODEL, "user": str(number), **body}).encode()
                fault = await _fault(target, path, said, cut=cut)
                if fault is not None:
                    kind, what = fault
                    outcome.findings.append(Finding(kind, WORK, what, b"%b <- %b" % (said, answer)))
                del torn[str(number)]

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(ask_some())
    return outcome


class _Mistakes(logging.Handler):
    """What the router logs as a mistake of its own."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(logging.ERROR)
        self._outcome = outcome

    def emit(self, record: logging.LogRecord) -> None:
        self._outcome.findings.append(Finding(Kind.FAULT, WORK, record.getMessage(), str(record.exc_info)))


@asynccontextmanager
async def _watched(outcome: Outcome) -> AsyncIterator[None]:
    handler, log = _Mistakes(outcome), logging.getLogger("router")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@asynccontextmanager
async def _torn_upstream(folder: Path) -> AsyncIterator[tuple[Site, dict[str, bytes]]]:
    """A router before an upstream that gives each request the bytes that lie ready for its `user`, and hangs up."""
    torn: dict[str, bytes] = {}

    async def answer(heard: Heard, wire: Wire) -> None:
        await wire.say(torn[json.loads(heard.body)["user"]])
        wire.writer.close()

    async with site(folder) as running:
        running.upstream.script = answer
        yield running, torn


def _spoiled(random: Random) -> tuple[bytes, bool]:
    """An answer, and whether it ends too early: then nothing may pass for a whole one."""
    answer = random.choice(ANSWERS)
    framed = b"content-length" in answer or b"chunked" in answer
    if random.random() < 0.4:
        cut = answer[: random.randrange(len(answer))]
        # All has been said with that line; an empty one, and the end of the framing, would follow.
        early = framed and answer.startswith(b"HTTP/1.1 200") and b"[DONE]\n" not in cut
        return cut, early
    return Mutator(random).torn(answer), False


async def _fault(target: Target, path: str, body: bytes, *, cut: bool) -> tuple[Kind, str] | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(target.post(path, body))
        async with asyncio.timeout(_DEADLINE):
            heard = await reader.read()
    except TimeoutError:
        return Kind.HANG, "no end"
    except ConnectionError:
        return None  # broken off, which tells the client
    finally:
        writer.close()
    if not heard.startswith(b"HTTP/1.1 "):
        return Kind.BREACH, f"not HTTP: {heard[:200]!r}"
    whole = messages(heard)
    status = int(heard[9:12])
    if cut and whole and status < 400:
        return Kind.BREACH, f"a cut answer passed for a whole one: {heard[:400]!r}"
    if status >= 400 and whole:
        told = error_in(whole[0].body)
        if told is None or told[0] == "internal_error":
            return Kind.FAULT, f"{status}: {whole[0].body[:200]!r}"
    return None
