"""What the fake llama-server says: the documents and chunks of build b11434. Standard library only."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

VERSION = "version: 11434 (fake000)\nbuilt with nothing for tests\n"
WHEN_NONE_IS_ASKED = 8  # tokens
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
NO_KEY = {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
UNKNOWN = {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}
_BATCHES = 50  # of a prompt, at most
_BATCH_SEC = 0.02  # at least: each sleep takes a millisecond longer than it is told to


@dataclass
class Slot:
    id: int
    task: int = -1
    busy: bool = False
    prompt: int = 0
    read: float = 1.0  # the share of the prompt that has been read
    decoded: int = 0
    memory: bytes = b""  # a token a byte


async def prefill(slot: Slot, seconds: float) -> None:
    """Read the prompt, and show it in `/slots`."""
    batches = min(_BATCHES, math.ceil(seconds / _BATCH_SEC))
    try:
        for step in range(batches):
            slot.read = step / batches
            await asyncio.sleep(seconds / batches)
    finally:
        slot.read = 1.0


def metrics_page(*, read: int, cached: int, seconds: float, predicted: int, busy: int, waiting: int) -> str:
    return (
        f"llamacpp:prompt_tokens_total {read}\n"
        f"llamacpp:prompt_tokens_cached_total {cached}\n"
        f"llamacpp:prompt_seconds_total {seconds}\n"
        "# TYPE llamacpp:tokens_predicted_total counter\n"
        f"llamacpp:tokens_predicted_total {predicted}\n"
        "# TYPE llamacpp:requests_processing gauge\n"
        f"llamacpp:requests_processing {busy}\n"
        "# TYPE llamacpp:requests_deferred gauge\n"
        f"llamacpp:requests_deferred {waiting}\n"
    )


def chat_chunks(alias: str) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """First chunk, maker of the chunk of a token, last chunk."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": alias,
                "choices": [choice]}  # fmt: skip

    return chunk({"role": "assistant", "content": None}), lambda word: chunk({"content": word}), chunk({}, "stop")


def text_chunks(alias: str) -> tuple[None, Any, dict[str, Any]]:
    def chunk(text: str, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return {"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": alias, "choices": [choice]}

    return None, chunk, chunk("", "stop")


def whole_answer(alias: str, words: list[str], slot: Slot, *, chat: bool) -> dict[str, Any]:
    text = "".join(words)
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    kind = "chat.completion" if chat else "text_completion"
    return {"id": "fake", "object": kind, "created": 1, "model": alias,
            "choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": usage_of(slot)}  # fmt: skip


def embeddings_of(alias: str, asked: Any) -> dict[str, Any]:
    texts = asked if isinstance(asked, list) else [asked]
    data = [{"object": "embedding", "index": n, "embedding": [0.6, 0.8]} for n in range(len(texts))]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "model": alias, "data": data, "usage": usage}


def prompt_of(asked: dict[str, Any]) -> bytes:
    """All that was said so far."""
    said = asked.get("messages") or [{"content": asked.get("prompt", "")}]
    return "\n".join(str(message.get("content", "")) for message in said).encode()


def shared(one: bytes, other: bytes) -> int:
    """How many tokens both begin with."""
    return next(
        (n for n, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its), min(len(one), len(other))
    )


def usage_of(slot: Slot) -> dict[str, int]:
    return {
        "prompt_tokens": slot.prompt,
        "completion_tokens": slot.decoded,
        "total_tokens": slot.prompt + slot.decoded,
    }


def last_text(asked: dict[str, Any]) -> Any:
    messages = asked.get("messages")
    return messages[-1].get("content") if messages else asked.get("prompt")
