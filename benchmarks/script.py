"""What the fake upstream says and what the load generator asks: the same bytes for everybody."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MODEL = "bench"
CHUNKS = 64  # of one stream, `[DONE]` not counted
PATH = "/v1/chat/completions"
STAMP = b"@%019d@"  # monotonic nanoseconds, in the chunks of a slow stream
_STAMP_PLACE = "@" * 21

_USAGE = {"completion_tokens": CHUNKS, "prompt_tokens": 12, "total_tokens": CHUNKS + 12}
_TIMINGS = {
    "cache_n": 0, "prompt_n": 12, "prompt_ms": 21.5, "prompt_per_second": 558.1, "predicted_n": CHUNKS,
    "predicted_ms": 812.4, "predicted_per_token_ms": 12.69, "predicted_per_second": 78.78,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request wants to be answered.

    Attributes:
        stream: as events, or as one document.
        chunks: events of a stream before `[DONE]`.
        pause: seconds between two of them; 0 = as fast as the sockets take them.
        tag: by which the upstream tells when the client left; 0 = it does not.
    """

    stream: bool
    chunks: int
    pause: float
    tag: int = 0


def request_body(plan: Plan) -> bytes:
    """A chat of ordinary size that carries the plan in fields which any server would accept or ignore."""
    asked = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that answers briefly and to the point."},
            {"role": "user", "content": "Tell me in two sentences why the sky is blue, and why it is red at sunset."},
        ],
        "temperature": 0.7,
        "max_tokens": plan.chunks,
        "stream": plan.stream,
        "pause_ms": round(plan.pause * 1000),
        **({"seed": plan.tag} if plan.tag else {}),
    }
    return json.dumps(asked).encode()


def plan_of(body: bytes) -> Plan:
    asked = json.loads(body or b"{}")
    chunks = asked.get("max_tokens") or CHUNKS
    return Plan(asked.get("stream") is True, chunks, asked.get("pause_ms", 0) / 1000, asked.get("seed", 0))


def document() -> bytes:
    """A whole answer."""
    text = "Sunlight is scattered by the air, and blue light far more than red. At sunset it has come a longer way."
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "choices": [{"finish_reason": "stop", "index": 0, "message": message}],
            "created": 1790000000, "model": MODEL, "system_fingerprint": "b11434-0000000", "object": "chat.completion",
            "usage": _USAGE, "id": "chatcmpl-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "timings": _TIMINGS,
        }
    ).encode()  # fmt: skip


def events(count: int) -> list[bytes]:
    """The events of a stream: `count` chunks, then `[DONE]`."""
    words = [_event({"content": " token"}) for _ in range(count - 1)]
    return [*words, _event({}, finish_reason="stop", usage=_USAGE, timings=_TIMINGS), b"data: [DONE]\n\n"]


def stamped_event() -> bytes:
    """An event with room for a `STAMP`."""
    return _event({"content": _STAMP_PLACE})


def with_stamp(event: bytes, nanoseconds: int) -> bytes:
    return event.replace(_STAMP_PLACE.encode(), STAMP % nanoseconds)


def framed(event: bytes) -> bytes:
    """As one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
    chunk = {
        "choices": [{"finish_reason": finish_reason, "index": 0, "delta": delta}],
        "created": 1790000000, "id": "chatcmpl-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "model": MODEL,
        "system_fingerprint": "b11434-0000000", "object": "chat.completion.chunk", **more,
    }  # fmt: skip
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
