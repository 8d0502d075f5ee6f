"""A tap on the answer that counts tokens for telemetry; it never changes a byte.

What an answer took stands near its start (embeddings, Anthropic's `message_start`) or near its end (everything else),
so only the first and the last few KiB are kept, and nothing is parsed before the end. A document that is kept as a
whole is parsed as one, which is faster than to look for what matters.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

_HEAD = 4 * 1024
_TAIL = 8 * 1024
_MOST = 24 * 1024  # twice what is needed, so that room is seldom made
_MOST_BRACES = 16

# No such count was ever true, and a counter must not take one.
_ABSURD = 1 << 53
_Count = Annotated[int, msgspec.Meta(ge=0, lt=_ABSURD)] | None
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, lt=_ABSURD)] | None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count = None


class _Usage(msgspec.Struct, gc=False):
    """As OpenAI's chat and text completions, OpenAI's responses, and Anthropic's messages tell it."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count = None
    cache_creation_input_tokens: _Count = None


class _Timings(msgspec.Struct, gc=False):
    """As llama.cpp tells them."""

    cache_n: _Count = None
    prompt_n: _Count = None
    prompt_ms: _Milliseconds = None
    predicted_n: _Count = None
    predicted_ms: _Milliseconds = None


class _Document(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    timings: _Timings | None = None


T = TypeVar("T")

_NO_TIMINGS = _Timings()
_DOCUMENT = msgspec.json.Decoder(_Document)
_USAGE = b'"usage"', msgspec.json.Decoder(_Usage)
_TIMINGS = b'"timings"', msgspec.json.Decoder(_Timings)


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """What an answer says it took; zeros where it says nothing.

    Attributes:
        prompt: tokens of the prompt, those from a cache included.
        cached: tokens of the prompt that were in the slot's cache.
        prompt_seconds, predicted_seconds: how long the prompt was read and the answer written, by llama.cpp's timings.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    prompt_seconds: float = 0.0
    predicted_seconds: float = 0.0


class UsageTap:
    """Feed it the answer chunk by chunk; ask `tokens()` at the end."""

    __slots__ = ("_cut", "_held")

    def __init__(self) -> None:
        self._held = bytearray()
        self._cut = False  # there is a gap behind the head

    def feed(self, chunk: bytes) -> None:
        held = self._held
        if len(held) + len(chunk) > _MOST:
            self._make_room(chunk)
        else:
            held += chunk

    def _make_room(self, chunk: bytes) -> None:
        held = self._held
        short = max(0, _HEAD - len(held))
        held += chunk[:short]
        held += chunk[max(short, len(chunk) - _TAIL) :]
        del held[_HEAD:-_TAIL]
        self._cut = True

    def tokens(self) -> Tokens:
        """What the answer says up to here.

        The last word counts. What it leaves out, the prompt in Anthropic's streams, is in the first.
        """
        document = None if self._cut or self._held[:1] != b"{" else _decoded(self._held, _DOCUMENT)
        if document is not None and document.usage is not None:
            timings = document.timings or _NO_TIMINGS
            prompt, completion, cached = _counts(document.usage)
        else:
            timings, prompt, completion, cached = self._sought()
        cached = cached or timings.cache_n or 0
        return Tokens(
            prompt or cached + (timings.prompt_n or 0),
            completion or timings.predicted_n or 0,
            cached,
            (timings.prompt_ms or 0) / 1000,
            (timings.predicted_ms or 0) / 1000,
        )

    def _sought(self) -> tuple[_Timings, int, int, int]:
        held, gap = self._held, _HEAD if self._cut else 0
        timings = _last(*_TIMINGS, held, gap) or _NO_TIMINGS
        prompt, completion, cached = _counts(_last(*_USAGE, held, gap))
        if not prompt:
            prompt, early, cached = _counts(_first(*_USAGE, held[:_HEAD] if self._cut else held))
            completion = completion or early
        return timings, prompt, completion, cached


def _first(name: bytes, decoder: msgspec.json.Decoder[T], text: bytearray) -> T | None:
    at = text.find(name)
    return None if at < 0 else _object_at(text, at + len(name), decoder)


def _last(name: bytes, decoder: msgspec.json.Decoder[T], text: bytearray, start: int) -> T | None:
    """The value of the last member of this name that is an object; within strings its quotes would be escaped."""
    at = len(text)
    while (at := text.rfind(name, start, at)) >= 0:
        if (found := _object_at(text, at + len(name), decoder)) is not None:
            return found
    return None


def _object_at(text: bytearray, start: int, decoder: msgspec.json.Decoder[T]) -> T | None:
    """The object behind a member's name; None if another value is there, or if the window cuts it off."""
    start = end = text.find(b"{", start, start + 8)
    for _ in range(_MOST_BRACES if start >= 0 else 0):
        end = text.find(b"}", end) + 1
        if not end:
            break
        if text.count(b"{", start, end) == text.count(b"}", start, end):
            return _decoded(text[start:end], decoder)
    return None


def _decoded(text: bytearray, decoder: msgspec.json.Decoder[T]) -> T | None:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _counts(usage: _Usage | None) -> tuple[int, int, int]:
    """Tokens of the prompt, of the answer, and how many of the former were cached.

    OpenAI counts cached tokens in, and tells of them in the details; Anthropic counts them beside.
    """
    if usage is None:
        return 0, 0, 0
    if usage.prompt_tokens is not None:
        details = usage.prompt_tokens_details
        return usage.prompt_tokens, usage.completion_tokens or 0, (details and details.cached_tokens) or 0
    own, written, details = usage.input_tokens or 0, usage.output_tokens or 0, usage.input_tokens_details
    if details is not None:
        return own, written, details.cached_tokens or 0
    read = usage.cache_read_input_tokens or 0
    return own + read + (usage.cache_creation_input_tokens or 0), written, read
