"""Bytes to a running router and back, judged by what no client may ever see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from router.proxy.complaint import SOURCE
from tests.fuzz.budget import Budget
from tests.fuzz.outcome import Finding, Kind, Outcome
from tests.support.wire import Message, messages

AT_ONCE = 8
# Without a byte for so long an answer counts as over, or as one that waits for more of the request. In seconds.
_QUIET = 0.25
_BUSY = 15.0  # between two bytes of the answer to a request that is whole
_WHOLE = 60.0  # for all of it
_END = 10.0  # from the client's end to that of the connection
# What the router is right to say: the model is not there to answer, or the request is no HTTP/1.1.
_EXPECTED = frozenset(("model_not_loaded", "model_ejected", "http_version_not_supported"))
Draw = Callable[[Random], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """A running router, and the headers that let one in."""

    port: int
    api_key: str = ""

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """The head of a request, without its empty line."""
        key = (f"authorization: Bearer {self.api_key}",) if self.api_key else ()
        return "\r\n".join((f"{method} {path} HTTP/1.1", "host: localhost", *key, *lines, "")).encode(
            "latin-1", "replace"
        )

    def post(self, path: str, body: bytes, *, kind: str = "application/json") -> bytes:
        """A whole request; the connection ends with its answer."""
        lines = (f"content-type: {kind}", f"content-length: {len(body)}", "connection: close")
        return self.head("POST", path, *lines) + b"\r\n" + body


async def fuzz(work: str, draw: Draw, target: Target, seed: int, budget: Budget, *, whole: bool) -> Outcome:
    """Say what `draw` makes up on a connection of its own each, a few at once, and judge what comes back.

    Args:
        whole: what is drawn are requests that close their connection, so each has to be answered to its end.
    """
    outcome, tries = Outcome(), iter(budget)

    async def say_some() -> None:
        for number in tries:
            said = draw(Random(f"{seed}/{work}/{number}"))
            outcome.tries[work] += 1
            if not await _say(work, said, target, outcome, whole=whole):
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(say_some())
    if not await alive(target):
        outcome.findings.append(
            Finding(Kind.CRASH, work, "the router does not answer /health any more", f"seed {seed}")
        )
    return outcome


async def alive(target: Target) -> bool:
    """Whether the router answers a simple question within its time."""
    try:
        heard = await _exchange(target, target.head("GET", "/health", "connection: close") + b"\r\n", whole=True)
    except (OSError, TimeoutError):
        return False
    return heard.startswith(b"HTTP/1.1 200")


async def _say(work: str, said: bytes, target: Target, outcome: Outcome, *, whole: bool) -> bool:
    """Whether there is somebody to say more to."""
    try:
        async with asyncio.timeout(_WHOLE):
            heard = await _exchange(target, said, whole=whole)
    except TimeoutError:
        outcome.findings.append(Finding(Kind.HANG, work, "no end", said))
    except ConnectionRefusedError:
        outcome.findings.append(Finding(Kind.CRASH, work, "nobody listens", said))
        return False
    else:
        if whole and not heard:
            outcome.findings.append(Finding(Kind.BREACH, work, "closed without an answer", said))
        for kind, what in judged(said, heard, outcome):
            outcome.findings.append(Finding(kind, work, what, said))
    return True


async def _exchange(target: Target, said: bytes, *, whole: bool) -> bytes:
    """What comes back until the router closes, or after a while of silence until it has noticed our own end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    heard = bytearray()
    try:
        writer.write(said)
        try:
            while True:
                piece = await asyncio.wait_for(reader.read(65536), _BUSY if whole else _QUIET)
                if not piece:
                    return bytes(heard)
                heard += piece
        except TimeoutError:
            if whole:
                raise
        writer.write_eof()
        async with asyncio.timeout(_END):
            heard += await reader.read()
    except ConnectionError:  # it may cut off who talks on after an end
        pass
    finally:
        writer.close()
    return bytes(heard)


def judged(said: bytes, heard: bytes, outcome: Outcome) -> Iterator[tuple[Kind, str]]:
    """What is wrong with the answers on one connection."""
    # The reader takes neither answers to HEAD nor those of HTTP/1.0, which may end with the connection.
    readable = b"HEAD" not in said and b"HTTP/1.0" not in said
    try:
        answers = [(int(one.first_line.split(" ")[1]), one) for one in messages(heard)]
    except (ValueError, IndexError) as error:
        if readable:
            yield Kind.BREACH, f"the answer is not HTTP: {error}: {heard[:200]!r}"
        return
    for status, answer in answers:
        if status >= 400 and (readable or status < 600):  # lengths are taken for statuses where it lost its way
            yield from (found for found in _judged_error(status, answer, outcome) if readable or found[0] is Kind.FAULT)


def _judged_error(status: int, answer: Message, outcome: Outcome) -> Iterator[tuple[Kind, str]]:
    told = error_in(answer.body)
    if told is None and answer.body:  # HEAD has none
        yield Kind.BREACH, f"status {status} without an error's shape: {answer.body[:200]!r}"
    elif fault := fault_in(status, answer.header(SOURCE), answer.body, outcome):
        yield Kind.FAULT, fault


def fault_in(status: int, source: str, body: bytes, outcome: Outcome) -> str | None:
    """What the router did wrong, if this is a 5xx that it made and should not have made.

    Args:
        source: the header of this name.
    """
    code, message = error_in(body) or ("", "without a word")
    if status < 500 or code in _EXPECTED:
        return None
    if source:
        outcome.child_errors[message[:60]] += 1
        return None
    return f"{status} {code}: {message}"


def error_in(body: bytes) -> tuple[str, str] | None:
    """Code (of Anthropic's dialect the type) and message of an error's body; None if it has another shape."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
