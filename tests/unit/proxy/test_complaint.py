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


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('Failed to parse tools: Expected \'tools\' to be an array, got "x"; tools = "x"', "invalid_request"),
        ("'messages' is required", "invalid_request"),
        ("vector::_M_range_check: __n (which is 99) >= this->size() (which is 9)", "invalid_request"),
        ("input (900 tokens) is too large to process. increase the physical batch size", "context_length_exceeded"),
        ("image input is not supported - hint: you may need to provide the mmproj", "unsupported_by_model"),
    ],
)
def test_a_failure_that_the_request_caused_is_the_requests_fault(message: str, code: str) -> None:
    found = translated(500, body(message=message, type="server_error", code=500))
    assert (found.status, found.message, found.type) == (400, message, "invalid_request_error")
    assert found.code == code


@pytest.mark.parametrize("message", ["Compute error.", "got exception: vector::_M_range_check: x", "unknown error"])
def test_the_servers_own_failures_stay_its_own(message: str) -> None:
    found = translated(500, body(message=message, type="server_error", code=500))
    assert (found.status, found.type, found.code) == (500, "server_error", "upstream_error")
    assert found.headers == {"x-error-source": "model"}


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
        "x-error-source": "model",
        "retry-after": "1",
    }
