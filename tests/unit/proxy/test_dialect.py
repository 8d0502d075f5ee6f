"""One error in the words of every dialect."""

import json

import pytest

from router.errors import ModelNotFound, QueueFull, UpstreamStalled
from router.proxy.dialect import Dialect, ErrorInfo, error_body, error_event

FULL = ErrorInfo.of(QueueFull("The queue is full.", retry_after=3))


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.RESPONSES])
def test_openai_has_all_four_keys(dialect: Dialect) -> None:
    assert json.loads(error_body(FULL, dialect, "id")) == {
        "error": {"message": "The queue is full.", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    }


def test_anthropic() -> None:
    assert json.loads(error_body(FULL, Dialect.ANTHROPIC, "id")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "The queue is full."},
        "request_id": "id",
    }


def test_further_fields_of_the_upstream_are_kept() -> None:
    info = ErrorInfo(400, "too long", "exceed_context_size_error", "context_length_exceeded", extra={"n_ctx": 512})
    assert json.loads(error_body(info, Dialect.OPENAI, "id"))["error"]["n_ctx"] == 512


def test_a_lone_surrogate_does_not_break_the_answer() -> None:
    info = ErrorInfo.of(ModelNotFound("No \ud800 ü."))
    assert json.loads(error_body(info, Dialect.OPENAI, "id"))["error"]["message"] == "No ? ü."


@pytest.mark.parametrize(
    ("dialect", "event", "kind"),
    [
        (Dialect.OPENAI, "", None),
        (Dialect.ANTHROPIC, "event: error\n", "error"),
        (Dialect.RESPONSES, "event: response.failed\n", "response.failed"),
    ],
)
def test_a_broken_stream_is_told_in_the_words_of_its_endpoint(dialect: Dialect, event: str, kind: str | None) -> None:
    told = error_event(ErrorInfo.of(UpstreamStalled("It stalled.")), dialect, "id").decode()
    assert told.startswith(event + "data: ")
    assert told.endswith("}\n\n")
    data = json.loads(told.removeprefix(event).removeprefix("data: "))
    assert data.get("type") == kind
    error = data["response"]["error"] if dialect is Dialect.RESPONSES else data["error"]
    assert error["message"] == "It stalled."
