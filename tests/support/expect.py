"""What a client may rely on when something went wrong."""

from __future__ import annotations

from typing import Any

import httpx

OPENAI_KEYS = {"message", "type", "param", "code"}


def expect_error(
    response: httpx.Response, *status: int, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Assert OpenAI's error shape, whole and strict; returns the error. `code` and `param` are compared if given."""
    assert response.status_code in status, f"{response.status_code}: {response.text[:300]}"
    assert response.headers.get("x-request-id"), "no x-request-id"
    assert response.headers["content-type"].startswith("application/json")
    document = response.json()
    assert set(document) == {"error"}, document
    error: dict[str, Any] = document["error"]
    assert set(error) == OPENAI_KEYS, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["type"]
    assert error["code"] is None or isinstance(error["code"], str), error
    assert error["param"] is None or isinstance(error["param"], str), error
    if code is not None:
        assert error["code"] == code, error
    if param is not None:
        assert error["param"] == param, error
    return error


def expect_anthropic_error(response: httpx.Response, status: int, kind: str) -> None:
    """Assert Anthropic's error shape."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:300]}"
    assert response.headers["x-request-id"] == response.headers["request-id"]
    document = response.json()
    assert set(document) == {"type", "error", "request_id"}, document
    assert document["type"] == "error"
    assert set(document["error"]) == {"type", "message"}
    assert document["error"]["type"] == kind


def expect_retry_after(response: httpx.Response) -> int:
    """Assert a Retry-After that every SDK honours: whole seconds, 1 to 59."""
    seconds = int(response.headers["retry-after"])
    assert 1 <= seconds <= 59
    return seconds


def expect_broken_stream(wire: bytes) -> dict[str, Any]:
    """Assert that a stream of OpenAI's dialect says that it broke, and does not look finished; returns the error."""
    assert b"[DONE]" not in wire
    assert b'finish_reason":"' not in wire
    last = wire.rstrip(b"\n").rpartition(b"\n\n")[2]
    return expect_error(
        httpx.Response(
            502, headers={"x-request-id": "in the stream", "content-type": "application/json"},
            content=last.removeprefix(b"data: ")
        ),
        502,
    )  # fmt: skip
