"""A tap on the answer that counts tokens for telemetry; it never changes a byte.

Token counts stand near the start of an answer (embeddings, Anthropic's `message_start`) or near its end (everything
else), so only the first and the last few KiB are kept, and nothing is parsed before the end.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_HEAD = 4 * 1024
_TAIL = 8 * 1024
_USAGE = re.compile(r'"usage"\s*:\s*(?=\{)')
_TIMINGS = re.compile(r'"timings"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int = 0
    completion: int = 0


class UsageTap:
    """Feed it the answer chunk by chunk; ask `tokens()` at the end."""

    __slots__ = ("_head", "_held", "_tail")

    def __init__(self) -> None:
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._held = 0

    def feed(self, chunk: bytes) -> None:
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
        self._tail.append(chunk)
        self._held += len(chunk)
        while self._held - len(self._tail[0]) >= _TAIL:
            self._held -= len(self._tail.popleft())

    def tokens(self) -> Tokens:
        """What the answer says it took; zeros where it says nothing."""
        texts = [part.decode("utf-8", "replace") for part in self._parts()]
        prompt = completion = 0
        for counts in _found(_USAGE, texts):
            prompt = _prompt_tokens(counts) or prompt
            completion = _number(counts, "completion_tokens") or _number(counts, "output_tokens") or completion
        if prompt and completion:
            return Tokens(prompt, completion)
        timed = Tokens()
        for counts in _found(_TIMINGS, texts):
            timed = Tokens(_number(counts, "prompt_n") + _number(counts, "cache_n"), _number(counts, "predicted_n"))
        return Tokens(prompt or timed.prompt, completion or timed.completion)

    def _parts(self) -> tuple[bytes, ...]:
        tail = b"".join(self._tail)
        # Below this nothing has been dropped, so the head would only be read twice.
        return (tail,) if self._held < _TAIL else (self._head, tail[-_TAIL:])


def _found(name: re.Pattern[str], texts: Iterable[str]) -> Iterator[dict[str, object]]:
    return (_decoded(text, match.end()) for text in texts for match in name.finditer(text))


def _decoded(text: str, start: int) -> dict[str, object]:
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}  # cut off by the window
    return value if isinstance(value, dict) else {}


def _prompt_tokens(counts: dict[str, object]) -> int:
    """OpenAI counts cached tokens in, Anthropic beside."""
    beside = _number(counts, "cache_read_input_tokens") + _number(counts, "cache_creation_input_tokens")
    own = _number(counts, "prompt_tokens") or _number(counts, "input_tokens")
    return own + beside if "input_tokens" in counts else own


def _number(counts: dict[str, object], key: str) -> int:
    value = counts.get(key)
    return value if isinstance(value, int) and value > 0 else 0
