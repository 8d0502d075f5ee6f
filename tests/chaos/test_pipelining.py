"""A client that asks again before it is answered."""

from __future__ import annotations

import json

from tests.chaos.world import World
from tests.support.wire import Wire

LENGTHS = (40, 1, 7)  # the first answer takes the longest


def test_answers_come_in_the_order_of_the_requests(anything: World) -> None:
    requests = b""
    for model, tokens in zip("aba", LENGTHS, strict=True):
        asked = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "Hi"}]}
        body = json.dumps(asked).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        requests += head.encode() + body
    with Wire(anything.running.url) as wire:
        wire.send(requests)
        answers = [wire.answer() for _ in LENGTHS]
    assert [answer.status_code for answer in answers] == [200] * len(LENGTHS)
    assert tuple(answer.json()["usage"]["completion_tokens"] for answer in answers) == LENGTHS
