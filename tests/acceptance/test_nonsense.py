"""Bodies that llama-server answers with 500, though all that is wrong is the body."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.router import RunningRouter

pytestmark = pytest.mark.llama

HI = [{"role": "user", "content": "Hi"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/chat/completions", {"messages": HI, "tools": "x"}, "invalid_request"),
        ("/v1/chat/completions", {"messages": HI, "tools": [{}], "stream": True}, "invalid_request"),
        ("/v1/chat/completions", {"messages": [{"role": 1, "content": "Hi"}]}, "invalid_request"),
        ("/v1/chat/completions", {"messages": HI, "reasoning_format": "x"}, "invalid_request"),
        ("/v1/chat/completions", {"messages": HI, "json_schema": {}, "grammar": "x"}, "invalid_request"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [PICTURE]}]}, "unsupported_by_model"),
        ("/v1/responses", {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
         "invalid_request"),
        ("/detokenize", {"tokens": [2**31]}, "invalid_request"),
        ("/tokenize", {"content": [-5], "with_pieces": True}, "invalid_request"),
        ("/v1/embeddings", {"model": "embed", "input": "a b " * 600}, "context_length_exceeded"),
    ],
)  # fmt: skip
def test_nonsense_is_the_requests_fault(
    running_router: RunningRouter, path: str, body: dict[str, Any], code: str
) -> None:
    answer = running_router.client.post(path, json={"model": "chat", "max_tokens": 300, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", code), error
    assert error["message"]


def test_anthropics_dialect_tells_it_too(running_router: RunningRouter) -> None:
    answer = running_router.client.post("/v1/messages", json={"model": "chat", "max_tokens": 3})
    assert answer.status_code == 400
    assert answer.json()["error"] == {"type": "invalid_request_error", "message": "'messages' is required"}
