"""Reading a request's body in: within limits and in good time."""

from __future__ import annotations

from io import BytesIO
from types import TracebackType
from typing import Self

from starlette.types import Receive, Scope

from router.api.cycle import EXTENSION, BodySource
from router.api.disconnect import ClientDisconnected
from router.api.errors import RequestTimeout
from router.api.named import named
from router.errors import BodyTooLarge, Overloaded, UnsupportedEncoding

MIB = 1024 * 1024


class BodyBudget:
    """Bounds the bytes of all request bodies held at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def hold(self) -> Hold:
        """A share that starts empty and, at the end of its `with` block, is given back as a whole."""
        return Hold(self)


class Hold:
    """One request's share of the budget."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.held -= self.size
        self.size = 0

    def grow(self, size: int) -> None:
        """Raises Overloaded when nothing is left."""
        budget = self._budget
        if budget.held + size > budget.limit:
            message = f"All requests together hold more than {budget.limit // MIB} MB (api.max_buffered_mb)."
            raise Overloaded(f"{message} Try again.", retry_after=2)
        budget.held += size
        self.size += size


async def read_body(scope: Scope, receive: Receive, hold: Hold, *, limit: int) -> bytes:
    """The whole body; without waiting where it came with its head, as small ones do.

    Raises BodyTooLarge before anything is read when the length is declared, UnsupportedEncoding, Overloaded,
    RequestTimeout, ClientDisconnected.
    """
    _check_headers(scope, limit)
    source: BodySource | None = scope.get("extensions", {}).get(EXTENSION)  # None: the server cannot tell
    taken = None if source is None else source.taken_body()
    return await _received_body(receive, source, hold, limit) if taken is None else _held(taken, hold, limit)


async def _received_body(receive: Receive, source: BodySource | None, hold: Hold, limit: int) -> bytes:
    # It grows with each chunk and gives its bytes away without a copy; to join 64 MB holds the loop for 35 ms.
    body = BytesIO()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            if source is not None and source.overdue:
                raise RequestTimeout("The body came too slowly, or not at all (api.body_timeout_sec).")
            raise ClientDisconnected
        body.write(_held(message.get("body", b""), hold, limit))
        more = message.get("more_body", False)
    return body.getvalue()


def _held(chunk: bytes, hold: Hold, limit: int) -> bytes:
    if hold.size + len(chunk) > limit:
        raise _too_large(limit)
    hold.grow(len(chunk))
    return chunk


def _check_headers(scope: Scope, limit: int) -> None:
    headers = named(scope)
    if int(headers.get(b"content-length", 0)) > limit:
        raise _too_large(limit)
    if headers.get(b"content-encoding", b"").strip().lower() not in {b"", b"identity"}:
        raise UnsupportedEncoding("Compressed bodies are not accepted; send the body as it is.")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than the {limit // MIB} MB allowed (api.max_body_mb).")
