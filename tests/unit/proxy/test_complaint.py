"""What an upstream complains about, in our shape."""

import json

import pytest

from router.proxy.complaint import translated


def body(**error: object) -> bytes:
    return json.dumps({"error": error}).encode()


def test_message_type_and_status_stay_and_the_code_becomes_a_string() -> None:
    found = translated(400, body(message="bad messages", type="invalid_request_error", code=400))
    assert (found.status, found.message, found.type) == (400, "bad messages", "invalid_request_error")
    assert (found.code, found.param) == ("invalid_request", None)


def test_the_figures_of_an_overlong_prompt_are_kept() -> None:
    told = body(message="too long", type="exceed_context_size_error", code=400, n_prompt_tokens=900, n_ctx=512)
    found = translated(400, told)
    assert found.code == "context_length_exceeded"
    assert dict(found.extra) == {"n_prompt_tokens": 900, "n_ctx": 512}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (501, "This server does not support embeddings. Start it with `--embeddings`"),
        (500, "the current context does not support logits computation. skipping"),
    ],
)
def test_what_the_model_cannot_do_is_not_worth_a_retry(status: int, message: str) -> None:
    found = translated(status, body(message=message, type="server_error", code=status))
    assert (found.status, found.code) == (400, "unsupported_by_model")
    assert message in found.message
    assert found.headers == {"x-should-retry": "false"}


def test_a_refused_key_is_the_routers_trouble() -> None:
    found = translated(401, body(message="Invalid API Key", code=401))
    assert (found.status, found.code) == (502, "upstream_failed")
    assert "Invalid API Key" not in found.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"Bad Gateway\n", "Bad Gateway"),
        (b'{"error":"just text"}', "just text"),
        (b'{"message":"flat"}', "flat"),
        (b'["list"]', '["list"]'),
        (b"", "The model's server answered with status 500."),
        (b"[" * 100_000, "[" * 2000),
        (b"\xff", "\ufffd"),
    ],
)
def test_any_shape_is_understood(answer: bytes, message: str) -> None:
    found = translated(500, answer)
    assert (found.message, found.type, found.code) == (message, "server_error", "upstream_error")


def test_a_busy_upstream_says_when_to_come_back() -> None:
    assert translated(503, body(message="Loading model", type="unavailable_error", code=503)).headers == {
        "retry-after": "1"
    }
