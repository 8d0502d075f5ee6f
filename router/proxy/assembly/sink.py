"""Swallows an event stream and gives one document in its place."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

import msgspec
from msgspec import Raw

from router.proxy.assembly.document import Document, Refused, Unfinished, check, fields_of
from router.proxy.assembly.events import Events
from router.proxy.detour import Untold
from router.wire.sink import ConnectionBroken, RawHeaders, Sink

# In characters; far more than any context holds: a bound against an upstream gone mad.
LARGEST_ANSWER = 16 * 1024 * 1024
# llama.cpp reads a growing answer again and again, and gives up when it reads what it has told before otherwise.
_STREAMS_ONLY = b"Invalid diff"
# What comes of a stream that tells something else than this endpoint's document needs.
_UNBUILT = (Unfinished, LookupError, TypeError, ValueError, RecursionError, msgspec.MsgspecError)


class _State(Enum):
    PASSING = auto()  # not a stream, not yet known to be one, or put together: everything goes on as it comes
    GATHERING = auto()
    REFUSED = auto()  # the stream has told an error; what follows says nothing
    OVER = auto()  # the inner sink has its answer, or its lack of one


class AssemblingSink:
    """See router.wire.sink.Sink.

    Args:
        on_progress: called for each read that brought more of the answer.
        largest: the most characters to hold.
    """

    def __init__(
        self,
        document: Document,
        inner: Sink,
        *,
        on_progress: Callable[[], None],
        largest: int = LARGEST_ANSWER,
    ) -> None:
        self._document = document
        self._largest = largest
        self._inner = inner
        self._on_progress = on_progress
        self._events = Events()
        self._state = _State.PASSING
        self._refusal = b""

    def head(self, status: int, headers: RawHeaders) -> None:
        if status < 400 and _is_event_stream(headers):
            self._state = _State.GATHERING
        else:
            self._inner.head(status, headers)

    def body(self, chunk: bytes) -> None:
        if self._state is _State.PASSING:
            self._inner.body(chunk)
        elif self._state is _State.GATHERING:
            self._gather(chunk)

    def end(self) -> None:
        if self._state is _State.PASSING:
            self._inner.end()
        else:
            self._conclude(ConnectionBroken("The stream ended before its last event.", untouched=False), whole=True)

    def broke(self, error: ConnectionBroken) -> None:
        if self._state is _State.PASSING:
            self._inner.broke(error)
        else:
            self._conclude(error, whole=False)

    def _gather(self, chunk: bytes) -> None:
        progress = False
        try:
            for name, data in self._events.feed(chunk):
                progress = True
                if name == b"error":
                    check(fields_of(data).get("error", Raw(data)))
                self._document.take(data)
        except Refused as refused:
            self._refusal, self._state = bytes(refused.error), _State.REFUSED
            if _STREAMS_ONLY in self._refusal:
                self._untold("llama.cpp's parser lost its way in it", whole=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._untold(f"an event is not to be understood ({error})", whole=False)
        else:
            if self._document.held + self._events.pending > self._largest:
                message = f"The answer is longer than {self._largest} characters."
                self._break(ConnectionBroken(message, untouched=False))
        if progress:
            self._on_progress()

    def _conclude(self, error: ConnectionBroken, *, whole: bool) -> None:
        """No more will come: hand over what there is, or say that the answer is not whole."""
        if self._state is _State.REFUSED:
            self._answer(_status_of(self._refusal), b'{"error":' + self._refusal + b"}")
        elif self._state is _State.GATHERING and self._document.complete:
            try:
                built = self._document.built()
            except _UNBUILT as reason:
                self._untold(str(reason) or type(reason).__name__, whole=whole)
            else:
                self._answer(200, built)
        elif self._state is _State.GATHERING:
            self._break(error)

    def _answer(self, status: int, document: bytes) -> None:
        self._state = _State.PASSING  # so that `inner` hears of it if this goes wrong
        length = str(len(document)).encode()
        headers = [(b"content-type", b"application/json; charset=utf-8"), (b"content-length", length)]
        self._inner.head(status, headers)
        self._inner.body(document)
        self._inner.end()
        self._state = _State.OVER

    def _untold(self, reason: str, *, whole: bool) -> None:
        self._break(Untold(f"The stream does not tell the whole answer: {reason}.", whole=whole))

    def _break(self, error: ConnectionBroken) -> None:
        self._state = _State.OVER
        self._inner.broke(error)


def _is_event_stream(headers: RawHeaders) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


def _status_of(error: bytes) -> int:
    """The status with which llama-server would have answered: its errors carry it as their code."""
    try:
        code = msgspec.json.decode(error, type=dict[str, object]).get("code")
    except msgspec.DecodeError:
        return 500
    return code if isinstance(code, int) and 400 <= code <= 599 else 500
