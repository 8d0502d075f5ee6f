"""Bodies that are not what they should be: answered here, in words, and never forwarded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest

from tests.support.expect import expect_error
from tests.support.models import Models
from tests.support.observing import metric, relayed
from tests.support.router import RunningRouter, router
from tests.support.wire import Wire

CHAT = "/v1/chat/completions"
DEEP = 100_000
FINE = {"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
MIB = 1024 * 1024


def with_value(value: bytes) -> bytes:
    return b'{"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": ' + value + b"}"


MALFORMED = {
    "truncated-json": b'{"model": "chat", "messages": [{"role": "us',
    "array": b"[1]",
    "string": b'"x"',
    "null": b"null",
    "empty": b"",
    "invalid-utf8": b'{"model": "chat", "messages": "\xff\xfe"}',
    "deep-arrays": with_value(b"[" * DEEP + b"]" * DEEP),
    "deep-objects": with_value(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "huge-integer": with_value(b"7" * 5000),
    "nan": with_value(b"NaN"),
    "infinity": with_value(b"Infinity"),
    "minus-infinity": with_value(b"-Infinity"),
}


@pytest.mark.usefixtures("nothing_forwarded")
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed(running_router: RunningRouter, body: bytes) -> None:
    response = running_router.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    expect_error(response, 400)


@pytest.mark.usefixtures("nothing_forwarded")
def test_surrogate_in_model(running_router: RunningRouter) -> None:
    body = rb'{"model": "\ud800", "messages": []}'
    error = expect_error(running_router.client.post(CHAT, content=body), 400, 404, param="model")
    assert error["type"] == "invalid_request_error"


def test_surrogate_in_content(running_router: RunningRouter) -> None:
    body = rb'{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "\ud800"}]}'
    response = running_router.client.post(CHAT, content=body)
    if response.status_code != 200:
        expect_error(response, 400)


def test_messages_is_a_string(running_router: RunningRouter) -> None:
    error = expect_error(running_router.chat("chat", messages="str"), 400)
    assert "messages" in error["message"], "the upstream's own message is told"
    assert isinstance(error["code"], str)


def test_duplicate_model_keys(running_router: RunningRouter) -> None:
    body = b'{"model": "chat", "model": "org/chatter:q4", ' + json.dumps(FINE).encode().partition(b",")[2].strip()
    before = {name: metric(running_router, "router_requests_total", model=name) for name in running_router.models}
    response = running_router.client.post(CHAT, content=body)
    if response.status_code == 400:
        expect_error(response, 400)
        return
    assert response.status_code == 200
    answered_by = response.json()["model"]
    after = {name: metric(running_router, "router_requests_total", model=name) for name in running_router.models}
    assert [name for name in after if after[name] > before[name]] == [answered_by]


@pytest.mark.parametrize(
    "content_type", ["text/plain", None, "application/x-www-form-urlencoded"], ids=["text-plain", "none", "form"]
)
def test_json_under_another_name(running_router: RunningRouter, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = running_router.client.post(CHAT, content=json.dumps(FINE).encode(), headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"]


@pytest.mark.usefixtures("nothing_forwarded")
def test_gzip(running_router: RunningRouter) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = running_router.client.post(CHAT, content=gzip.compress(json.dumps(FINE).encode()), headers=headers)
    error = expect_error(response, 400, 415)
    assert "ompress" in error["message"]


@pytest.fixture(scope="module")
def one_megabyte(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router that takes bodies of up to 1 MiB."""
    folder = tmp_path_factory.mktemp("one-megabyte")
    with router(folder, {"chat": models.entry("chat")}, api={"max_body_mb": 1}, api_key="test-key") as running:
        yield running


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"


def test_too_large_by_length(one_megabyte: RunningRouter) -> None:
    with Wire(one_megabyte.url) as wire:
        wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % (MIB + 1))
        expect_error(wire.answer(), 413, code="request_too_large")  # without a byte of the body having been sent
    assert relayed(one_megabyte) == 0
    assert one_megabyte.process.poll() is None


def test_too_large_in_chunks(one_megabyte: RunningRouter) -> None:
    with Wire(one_megabyte.url) as wire:
        wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(16):
            wire.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        wire.send(b"1\r\n \r\n")
        expect_error(wire.answer(), 413, code="request_too_large")  # before the body has ended
    assert relayed(one_megabyte) == 0
    assert one_megabyte.process.poll() is None


def test_exactly_as_large_as_allowed(one_megabyte: RunningRouter) -> None:
    body = json.dumps(FINE).encode()
    response = one_megabyte.client.post(CHAT, content=body + b" " * (MIB - len(body)))
    assert response.status_code == 200, response.text
