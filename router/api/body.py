"""Reading a request's body in: within limits, in good time, and understood only as far as routing needs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from starlette.types import Message, Receive, Scope

from router.api.disconnect import ClientDisconnected
from router.api.errors import RequestTimeout
from router.errors import BodyTooLarge, InvalidRequest, Overloaded, UnsupportedEncoding

MIB = 1024 * 1024
_SILENCE_SEC = 60.0  # longest pause of a client that is sending its body


class BodyBudget:
    """Bounds the bytes of all request bodies held at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """A share that starts empty and is given back as a whole."""
        share = Hold(self)
        try:
            yield share
        finally:
            share.release()


class Hold:
    """One request's share of the budget."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> None:
        """Raises Overloaded when nothing is left."""
        if self._budget.held + size > self._budget.limit:
            message = f"All requests together hold more than {self._budget.limit // MIB} MB (api.max_buffered_mb)."
            raise Overloaded(f"{message} Try again.", retry_after=2)
        self._budget.held += size
        self.size += size

    def release(self) -> None:
        self._budget.held -= self.size
        self.size = 0


@dataclass(frozen=True, slots=True)
class Envelope:
    """What routing reads of a JSON body.

    Attributes:
        model: None when it is missing; anything a client may have put there.
        service_tier: OpenAI's word for a class of service, or anything else.
    """

    model: object
    stream: bool
    service_tier: object


async def read_body(scope: Scope, receive: Receive, hold: Hold, *, limit: int) -> bytes:
    """The whole body.

    Raises BodyTooLarge before anything is read when the length is declared, UnsupportedEncoding, Overloaded,
    RequestTimeout, ClientDisconnected.
    """
    _check_headers(scope, limit)
    chunks: list[bytes] = []
    more = True
    while more:
        message = await _received(receive)
        chunk = message.get("body", b"")
        if hold.size + len(chunk) > limit:
            raise _too_large(limit)
        hold.grow(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_headers(scope: Scope, limit: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise _too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise UnsupportedEncoding("Compressed bodies are not accepted; send the body as it is.")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than the {limit // MIB} MB allowed (api.max_body_mb).")


async def _received(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(_SILENCE_SEC):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive: nothing came for {_SILENCE_SEC:.0f} s.") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not valid JSON: {name} is not a number of JSON.")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # `json.loads` would make one for each call


def parse_json(body: bytes) -> Envelope:
    """Understand a JSON body. Raises InvalidRequest for anything that is not a JSON object in UTF-8."""
    try:
        found = _DECODER.decode(str(body, "utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise InvalidRequest("The body's JSON is nested too deeply.") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    except ValueError as error:
        raise InvalidRequest("The body holds a number with too many digits.") from error
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return Envelope(found.get("model"), found.get("stream") is True, found.get("service_tier"))
