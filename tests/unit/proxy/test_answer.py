"""What a client is told, piece by piece."""

from __future__ import annotations

import pytest

from router.errors import QueueTimeout
from router.proxy.answer import Answer
from router.proxy.dialect import Dialect, ErrorInfo
from router.wire.sink import RawHeaders
from tests.fakes.client import FakeClient

EVENT_STREAM: RawHeaders = [(b"content-type", b"text/event-stream")]
LATE = ErrorInfo.of(QueueTimeout("late", retry_after=10))
TOLD = b'{"error":{"message":"late","type":"server_error","param":null,"code":"queue_timeout"}}'


class Talk(FakeClient):
    def __init__(self, dialect: Dialect = Dialect.OPENAI) -> None:
        super().__init__()
        self.answer = Answer(self, dialect, "id")

    def stream(self, *chunks: bytes) -> None:
        self.answer.start(200, EVENT_STREAM, streaming=True)
        for chunk in chunks:
            self.answer.write(chunk)


def test_an_error_before_anything_was_said_is_a_response() -> None:
    talk = Talk()
    talk.answer.fail(LATE)
    assert (talk.status, talk.body, talk.complete) == (503, TOLD, True)
    assert talk.headers == [
        (b"content-type", b"application/json"), (b"content-length", b"%d" % len(TOLD)), (b"retry-after", b"10"),
    ]  # fmt: skip


@pytest.mark.parametrize(("chunk", "half"), [(b"data: 1\n\n", b""), (b"data: {", b"\n\n")])
def test_an_error_in_a_stream_ends_what_was_cut_and_breaks_off(chunk: bytes, half: bytes) -> None:
    talk = Talk()
    talk.stream(chunk)
    talk.answer.fail(LATE)
    assert talk.last_words == half + b"data: " + TOLD + b"\n\n"
    assert (talk.body, talk.complete, talk.answer.status) == (chunk, False, 503)


def test_a_document_that_breaks_ends_without_a_word() -> None:
    talk = Talk()
    talk.answer.start(200, [], streaming=False)
    talk.answer.write(b"{")
    talk.answer.fail(LATE)
    assert (talk.body, talk.last_words) == (b"{", b"")


def test_nothing_follows_a_whole_answer() -> None:
    talk = Talk()
    talk.stream(b"data: [DONE]\n\n")
    talk.answer.end()
    talk.answer.fail(LATE)
    talk.answer.ping("processing")
    assert (talk.body, talk.last_words, talk.answer.status) == (b"data: [DONE]\n\n", None, 200)


def test_pings_come_before_the_content_and_never_after() -> None:
    talk = Talk()
    talk.answer.ping("queue position 2")
    assert (talk.status, talk.answer.first_content) == (200, None)
    assert dict(talk.headers) == {b"content-type": b"text/event-stream", b"cache-control": b"no-cache"}
    talk.answer.ping("processing")
    talk.stream(b"data: 1\n\n")
    talk.answer.ping("processing")
    assert talk.body == b": ping queue position 2\n\n: ping processing\n\ndata: 1\n\n"
    assert talk.answer.first_content is not None


def test_an_error_after_pings_is_an_event() -> None:
    talk = Talk(Dialect.ANTHROPIC)
    talk.answer.ping("processing")
    talk.answer.fail(LATE)
    assert talk.last_words is not None
    assert talk.last_words.startswith(b"event: error\ndata: ")


def test_a_ping_does_not_cut_a_comment_of_the_upstream() -> None:
    talk = Talk()
    talk.stream(b": pi")
    talk.answer.ping("processing")
    assert talk.body == b": pi"


def test_a_second_upstream_begins_on_a_line_of_its_own() -> None:
    talk = Talk()
    talk.stream(b": pi")
    talk.stream(b"data: 1\n\n")
    assert talk.body == b": pi\n\ndata: 1\n\n"


def test_a_document_is_content_whatever_it_begins_with() -> None:
    talk = Talk()
    talk.answer.start(200, [], streaming=False)
    assert talk.answer.write(b":\n\n")
    assert talk.answer.first_content is not None
