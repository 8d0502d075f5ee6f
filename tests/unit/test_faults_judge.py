"""What `benchmarks.faults` takes the end of an answer for: its figures are worth as much as this."""

from __future__ import annotations

import json

import pytest

from benchmarks.faults.site import Ending, judge

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(word: str) -> bytes:
    return framed(b"data: " + json.dumps({"choices": [{"delta": {"content": word}}]}).encode() + b"\n\n")


def document(text: str, status: str = "200 OK") -> bytes:
    told = {"choices": [{"message": {"content": text}}]} if status == "200 OK" else {"error": {"code": text}}
    body = json.dumps(told).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


DONE = framed(b"data: [DONE]\n\n")
ERROR = framed(b'data: {"error": {"message": "it broke", "code": "upstream_failed"}}\n\n')
STREAMS = {
    "whole": (HEAD + event("word0 ") + event("word1 ") + DONE + END, Ending.WHOLE),
    "one word is missing": (HEAD + event("word0 ") + DONE + END, Ending.TRUNCATED),
    "a word comes twice": (HEAD + event("word0 ") * 2 + event("word1 ") + DONE + END, Ending.TRUNCATED),
    "the end is not told": (HEAD + event("word0 ") + event("word1 ") + END, Ending.TRUNCATED),
    "broken off": (HEAD + event("word0 ") + ERROR, Ending.BROKEN),
    "cut amid an event": (HEAD + event("word0 ")[:-9], Ending.BROKEN),
    "nothing but a head": (HEAD, Ending.UNANSWERED),
    "nothing": (b"", Ending.UNANSWERED),
    "refused": (document("queue_full", "429 Too Many Requests"), Ending.REFUSED),
}


@pytest.mark.parametrize(("raw", "ending"), STREAMS.values(), ids=STREAMS)
def test_streams(raw: bytes, ending: Ending) -> None:
    assert judge(raw, tokens=2, stream=True)[0] is ending


def test_documents() -> None:
    assert judge(document("word0 word1 "), tokens=2, stream=False) == (Ending.WHOLE, "")
    assert judge(document("word0 "), tokens=2, stream=False) == (Ending.TRUNCATED, "")
    assert judge(document("upstream_failed", "502 Bad Gateway"), tokens=2, stream=False) == (
        Ending.REFUSED,
        "upstream_failed",
    )
    assert judge(document("word0 word1 ")[:-3], tokens=2, stream=False)[0] is Ending.BROKEN


def test_an_answer_to_somebody_else() -> None:
    streamed = HEAD + event("word0 ") + event("word1 ") + DONE + END
    assert judge(streamed, tokens=2, stream=False)[0] is Ending.TRUNCATED
    assert judge(document("word0 word1 "), tokens=2, stream=True)[0] is Ending.TRUNCATED
