"""Which requests are asked for as a stream, and how."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.proxy.assembly import Assembly, plan
from router.proxy.assembly.plan import LARGEST_REQUEST

CHAT, TEXT, OWN, MESSAGES, RESPONSES = (
    "/v1/chat/completions", "/v1/completions", "/completion", "/v1/messages", "/v1/responses",
)  # fmt: skip
ASK = [{"role": "user", "content": "Hi"}]
NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": ASK}, TEXT: {"prompt": "Hi"}, OWN: {"prompt": "Hi"}, MESSAGES: {"messages": ASK},
    RESPONSES: {"input": "Hi"},
}  # fmt: skip


def planned(path: str, n: int | None = None, max_tokens: int | None = None, **fields: Any) -> Assembly | None:
    return plan(path, json.dumps({**NEEDED[path], **fields}).encode(), n=n, max_tokens=max_tokens)


@pytest.mark.parametrize("path", NEEDED)
def test_a_plain_request_becomes_a_stream(path: str) -> None:
    assembly = planned(path, max_tokens=1000)
    assert assembly is not None
    said = json.loads(assembly.body)
    assert said.pop("stream") is True
    assert said.pop("stream_options", None) == ({"include_usage": True} if path == CHAT else None)
    assert said == NEEDED[path]


def test_the_body_stays_as_it_is_but_for_its_end() -> None:
    body = '{ "messages":[{"role": "user","content":"}, 模型 😀 \\ud83d\\ude00"}] ,\n "stream" : false, "x":1.50 }\r\n '
    assembly = plan(CHAT, body.encode(), n=None, max_tokens=None)
    assert assembly is not None
    kept = body.encode().rstrip()[:-1]
    assert assembly.body == kept + b',"stream":true,"stream_options":{"include_usage":true}}'
    assert json.loads(assembly.body)["stream"] is True


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 2}),
        (CHAT, {"n_cmpl": 2}),
        (CHAT, {"max_tokens": 256}),
        (CHAT, {"max_completion_tokens": 1}),
        (OWN, {"n_predict": 0}),
        (RESPONSES, {"max_output_tokens": 16}),
        (CHAT, {"logprobs": True}),
        (TEXT, {"logprobs": 3}),
        (OWN, {"n_probs": 1}),
        (OWN, {"return_tokens": True}),
        (OWN, {"response_fields": ["content"]}),
        (OWN, {"n_indent": 4}),
        (CHAT, {"verbose": True}),
        (CHAT, {"reasoning_format": "deepseek-legacy"}),
        (CHAT, {"messages": [*ASK, {"role": "assistant", "content": "Once"}]}),
        (MESSAGES, {"messages": [*ASK, {"role": "assistant", "content": "Once"}]}),
        (CHAT, {"continue_final_message": True}),
        (CHAT, {"stop": [".", "\n\n"]}),
        (MESSAGES, {"stop_sequences": ["END"]}),
        (TEXT, {"prompt": ["one", "two"]}),
        (TEXT, {"prompt": [[1, 2], [3, 4]]}),
        (TEXT, {"prompt": []}),
        (CHAT, {"stream": True}),
        (CHAT, {"stream": "yes"}),
        (CHAT, {"messages": "Hi"}),
        (CHAT, {"messages": []}),
        (CHAT, {"n": "one"}),
    ],
)  # fmt: skip
def test_what_a_stream_would_not_tell_or_soon_ends_is_left_alone(path: str, fields: dict[str, Any]) -> None:
    assert planned(path, **fields) is None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 1, "max_tokens": 257, "logprobs": False, "stop": [], "stream": False, "verbose": None}),
        (CHAT, {"max_tokens": -1, "timings_per_token": True, "return_progress": True}),
        (CHAT, {"stop": ["\n", "é"], "stream_options": {"include_usage": False}}),
        (CHAT, {"tools": [{"type": "function"}], "response_format": {"type": "json_object"}}),
        (TEXT, {"prompt": [1, 2, 3], "stop": ["END", "\n\n"]}),
        (OWN, {"prompt": {"prompt_string": "Hi", "multimodal_data": []}}),
    ],
)
def test_these_are_no_obstacles(path: str, fields: dict[str, Any]) -> None:
    assert planned(path, **fields) is not None


def test_what_the_caller_knows_spares_reading() -> None:
    assert planned(CHAT, n=2) is None
    assert planned(CHAT, max_tokens=256) is None
    assert plan(CHAT, b"never read", n=None, max_tokens=1) is None


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"messages":', b'"x"', b"[" * 100_000, b'{"model":"m"}'])
def test_what_cannot_be_understood_is_left_to_the_upstream(body: bytes) -> None:
    assert plan(CHAT, body, n=None, max_tokens=None) is None


@pytest.mark.parametrize("path", ["/v1/embeddings", "/infill", "/v1/chat/completions/input_tokens", "/rerank"])
def test_other_endpoints_are_left_alone(path: str) -> None:
    assert plan(path, json.dumps({"messages": ASK, "prompt": "Hi"}).encode(), n=None, max_tokens=None) is None


def test_a_body_that_no_context_holds_is_not_looked_at() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * LARGEST_REQUEST}]}).encode()
    assert plan(CHAT, body, n=None, max_tokens=None) is None
    assert plan(CHAT, body.replace(b"x" * 1000, b"", 1), n=None, max_tokens=None) is not None


@pytest.mark.parametrize(
    ("prompt", "one"),
    [("[1, 2]", True), (" [ 1 ] ", True), ("[ ]", False), ('[1, "x"]', False), ("[[1]]", False), ('[{"a":1}]', False)],
)
def test_a_list_of_tokens_is_one_prompt(prompt: str, one: bool) -> None:
    assert (plan(TEXT, f'{{"prompt":{prompt}}}'.encode(), n=None, max_tokens=None) is not None) is one
