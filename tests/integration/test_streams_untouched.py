"""What a child says is what the client gets, byte for byte, and what the client said is what the child got."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.models import Models
from tests.support.recording_llama_server import make_recording_binary
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until
from tests.support.wire import Message, messages

pytestmark = pytest.mark.llama

MESSAGES = [{"role": "user", "content": "Grüß dich, 模型 😀"}]
CHAT = {"messages": MESSAGES, "max_tokens": 24}
ASKED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat-stream": ("chat", "/v1/chat/completions", {**CHAT, "stream": True}),
    "chat-stream-with-usage": (
        "chat", "/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "long-stream": ("chat", "/v1/chat/completions", {**CHAT, "max_tokens": 1000, "stream": True, "logprobs": True}),
    "sentences": ("chatter", "/v1/chat/completions", {**CHAT, "max_tokens": 100, "stream": True}),
    "completion-stream": ("chat", "/v1/completions", {"prompt": "Hi", "max_tokens": 24, "stream": True}),
    "llama-cpp-stream": ("chat", "/completion", {"prompt": "Hi", "n_predict": 24, "stream": True}),
    "responses-stream": ("chat", "/v1/responses", {"input": "Hi", "max_output_tokens": 24, "stream": True}),
    "messages-stream": ("chat", "/v1/messages", {**CHAT, "stream": True}),
    "chat": ("chat", "/v1/chat/completions", CHAT),
    "embeddings": ("embed", "/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
}  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    router: RunningRouter
    folder: Path

    def exchange(self, marker: str) -> tuple[Message, Message]:
        """The request with this marker in its body, and its answer, as the child has seen them."""
        found: list[tuple[Message, Message]] = []

        def complete() -> bool:
            found[:] = self._find(marker.encode())
            return bool(found)

        wait_until(complete, what="a complete record")
        assert len(found) == 1, "sent more than once"
        return found[0]

    def _find(self, marker: bytes) -> list[tuple[Message, Message]]:
        pairs: list[tuple[Message, Message]] = []
        for path in self.folder.glob("*.request"):
            raw = path.read_bytes()
            if marker in raw:
                answers = messages(path.with_suffix(".answer").read_bytes())
                # A connection that is still in use may have more requests than answers.
                pairs += zip(messages(raw), answers, strict=False)
        return [pair for pair in pairs if marker in pair[0].body]


@pytest.fixture(scope="module")
def recorded(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    binary = os.environ.get("LLAMA_SERVER_PATH")
    program = [binary] if binary else [sys.executable, "-m", "router.backends.embedded"]
    env = {"LLAMA_SERVER_PATH": str(make_recording_binary(folder, folder / "records", *program))}
    configured = {kind: models.entry(kind) for kind in ("chat", "chatter", "embed")}
    with router(folder, configured, env=env) as running:
        yield Recorded(running, folder / "records")


@pytest.mark.parametrize(("model", "path", "fields"), ASKED.values(), ids=ASKED)
def test_bytes_pass_untouched(recorded: Recorded, model: str, path: str, fields: dict[str, Any]) -> None:
    marker = uuid4().hex
    sent = json.dumps({"model": model, "user": marker, **fields}, indent=1).encode()
    with recorded.router.client.stream("POST", path, content=sent) as response:
        received = b"".join(response.iter_raw())
    request, answer = recorded.exchange(marker)
    assert response.status_code == 200, received
    assert request.body == sent
    assert received == answer.body
    assert response.headers["content-type"] == answer.header("content-type")
    assert len(received) > 100
    if fields.get("stream"):
        assert received.count(b"data: ") > 2
