"""The endpoints that stream: what each is asked, and how each tells that its stream broke or is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.expect import expect_broken_stream

PROMPT = "Hi"


@dataclass(frozen=True)
class Endpoint:
    """Attributes:
    limit: the field that says how many tokens are wanted.
    prompt: the fields that ask for an answer to a text.
    end: what only the last event of a whole stream says.
    broken: takes the wire of a stream that broke, asserts that it says so in the endpoint's words; returns the message.
    """

    path: str
    limit: str
    prompt: Callable[[str], Mapping[str, Any]]
    end: bytes
    broken: Callable[[bytes], str] = field(repr=False)

    def body(self, model: str, tokens: int, prompt: str = PROMPT, *, stream: bool = True) -> dict[str, Any]:
        return {"model": model, self.limit: tokens, "stream": stream, **self.prompt(prompt)}


def _chat(text: str) -> Mapping[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _openai_broken(wire: bytes) -> str:
    message: str = expect_broken_stream(wire)["message"]
    return message


def _responses_broken(wire: bytes) -> str:
    assert b"response.completed" not in wire
    document = _last_event(wire, "response.failed")
    response = document["response"]
    assert response["object"] == "response"
    assert response["status"] == "failed"
    assert set(response["error"]) == {"code", "message"}
    return _text(response["error"]["message"])


def _messages_broken(wire: bytes) -> str:
    assert b"message_stop" not in wire
    assert b'"stop_reason":"' not in wire
    document = _last_event(wire, "error")
    assert set(document["error"]) == {"type", "message"}
    return _text(document["error"]["message"])


def _last_event(wire: bytes, name: str) -> dict[str, Any]:
    """The document of the last event, which must be complete, and have this name twice: before its data and in it."""
    assert wire.endswith(b"\n\n"), wire[-200:]
    first, data = wire.rstrip(b"\n").rpartition(b"\n\n")[2].split(b"\n")
    assert first == f"event: {name}".encode(), first
    document: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
    assert document["type"] == name
    return document


def _text(value: Any) -> str:
    assert isinstance(value, str)
    assert value
    return value


CHAT = Endpoint("/v1/chat/completions", "max_tokens", _chat, b"data: [DONE]", _openai_broken)
ENDPOINTS: Mapping[str, Endpoint] = {
    "chat": CHAT,
    "completions": Endpoint(
        "/v1/completions", "max_tokens", lambda text: {"prompt": text}, b"data: [DONE]", _openai_broken
    ),
    "responses": Endpoint(
        "/v1/responses", "max_output_tokens", lambda text: {"input": text}, b"response.completed", _responses_broken
    ),
    "messages": Endpoint("/v1/messages", "max_tokens", _chat, b"message_stop", _messages_broken),
}
