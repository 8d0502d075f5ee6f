"""Requests that are none, or that another server might read in another way: refused in words, nothing let past."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.expect import expect_error
from tests.support.observing import relayed
from tests.support.router import RunningRouter
from tests.support.wire import Wire

KEY = b"Authorization: Bearer test-key\r\n"
HOST = b"Host: localhost\r\n" + KEY
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"0\r\n\r\n" + GET + b"\r\n"

# What stands there, and how it is answered.
REFUSED = {
    "no host": (b"GET /v1/models HTTP/1.1\r\n" + KEY + b"\r\n", 400),
    "two hosts": (GET + b"Host: elsewhere\r\n\r\n", 400),
    "HTTP/2.0": (GET.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n", 505),
    "HTTP/0.9": (GET.replace(b"HTTP/1.1", b"HTTP/0.9") + b"\r\n", 505),
    "HTTP/1.2": (GET.replace(b"HTTP/1.1", b"HTTP/1.2") + b"\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "CONNECT": (b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT a path": (b"CONNECT /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "length and chunks": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED, 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + SMUGGLED, 400),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + SMUGGLED, 400),
    "gzip and chunks": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + SMUGGLED, 415),
    "chunks and gzip": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + SMUGGLED, 400),
    "chunks twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED, 400),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED, 415),
    "space before a colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n" + SMUGGLED, 400),
    "two lengths": (POST + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + GET + b"\r\n", 400),
    "the same length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a list of lengths": (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "signed length": (POST + b"Content-Length: +2\r\n\r\n{}", 400),
    "negative length": (POST + b"Content-Length: -2\r\n\r\n{}", 400),
    "endless length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n{}", 400),
    "length beyond 63 bits": (POST + b"Content-Length: 9223372036854775808\r\n\r\n{}", 413),
    "chunk size overflow": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "negative chunk": (CHUNKED + b"-1\r\n{}\r\n", 400),
    "chunk of 0x": (CHUNKED + b"0x2\r\n{}\r\n", 400),
    "line feed in an extension": (CHUNKED + b"2;a\nb\r\n{}\r\n" + SMUGGLED, 400),
    "chunk ends with a line feed": (CHUNKED + b"2\n{}\n0\n\n", 400),
    "folded header": (GET + b"X-A: b\r\n c\r\n\r\n", 400),
    "folded first header": (b"GET /v1/models HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "NUL in a name": (GET + b"X-A\0: b\r\n\r\n", 400),
    "NUL in a value": (GET + b"X-A: b\0c\r\n\r\n", 400),
    "control character in a value": (GET + b"X-A: b\x01c\r\n\r\n", 400),
    "return without a line feed": (GET + b"X-A: b\rX-B: c\r\n\r\n", 400),
    "line feeds only": (GET.replace(b"\r\n", b"\n") + b"\n", 400),
    "header without a name": (GET + b": b\r\n\r\n", 400),
    "header without a colon": (GET + b"X-A\r\n\r\n", 400),
    "unknown method": (GET.replace(b"GET", b"STEAL") + b"\r\n", 400),
    "method in small letters": (GET.replace(b"GET", b"get") + b"\r\n", 400),
    "blank in a path": (GET.replace(b"models", b"mod els") + b"\r\n", 400),
    "path without a slash": (GET.replace(b" /v1", b" v1") + b"\r\n", 400),
    "NUL in a path": (GET.replace(b"models", b"mod\0els") + b"\r\n", 400),
    "129 headers": (GET + b"X-A: b\r\n" * 129 + b"\r\n", 431),
    "a head of 17 KB": (GET + b"X-A: " + b"b" * 17 * 1024 + b"\r\n\r\n", 431),
    "a head without an end": (GET + b"X-A: " + b"b" * 300 * 1024, 431),
    "a target without an end": (b"GET /" + b"a" * 300 * 1024, 431),
}


@pytest.fixture(scope="module", autouse=True)
def nothing_is_let_past(running_router: RunningRouter) -> Iterator[None]:
    """No model hears of any of it, and the router has met nothing that it did not expect."""
    before = relayed(running_router), len(running_router.log)
    yield
    assert relayed(running_router) == before[0]
    assert "Traceback" not in running_router.log[before[1] :]


@pytest.mark.parametrize(("said", "status"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_words(running_router: RunningRouter, said: bytes, status: int) -> None:
    with Wire(running_router.url) as wire:
        wire.send(said)
        answer = wire.answer()
        expect_error(answer, status)
        if answer.headers.get("connection") == "close":
            assert wire.closed(), "what follows was answered too"
    assert answer.headers.get("connection") == "close" or status == 431


def test_what_is_odd_but_clear_is_answered(running_router: RunningRouter) -> None:
    with Wire(running_router.url) as wire:
        for said in (
            GET + b"\r\n",
            b"\r\n\r\n" + GET + b"\r\n",
            GET.replace(b" /v1", b" http://elsewhere/v1") + b"\r\n",
            GET.replace(b"models", b"%6dodels") + b"\r\n",
            GET + b"Transfer-Encoding: Chunked\r\n\r\n" + b"2;name=value\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n",
            GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ):
            wire.send(said)
            answer = wire.answer()
            assert (answer.status_code, answer.json()["object"]) == (200, "list"), said


@pytest.mark.parametrize(
    "path",
    [
        b"/health/../v1/models",
        b"/health/%2e%2e/v1/models",
        b"/health//v1/models",
        b"//health/../v1/models",
        b"/%2e/v1/models",
        b"//v1/models",
        b"/health/%00/v1/models",
        b"/v1/models?/health",
        b"/v1/%6dodels",
        b"/V1/MODELS",
        b"http://localhost/v1/models",
        b"http://localhost/health/../v1/models",
    ],
)
def test_no_path_leads_around_the_key(running_router: RunningRouter, path: bytes) -> None:
    with Wire(running_router.url) as wire:
        wire.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        expect_error(wire.answer(), 401, 404)


def test_extensions_without_an_end_are_not_collected(running_router: RunningRouter) -> None:
    with Wire(running_router.url) as wire:
        wire.send(CHUNKED + b"2;" + b"a" * 600 * 1024)
        expect_error(wire.answer(), 431)
        assert wire.closed()


@pytest.mark.parametrize("body", [b"\x1f\x8b\x08\x00rest", b"\x28\xb5\x2f\xfdrest"], ids=["gzip", "zstd"])
def test_a_compressed_body_that_does_not_say_so(running_router: RunningRouter, body: bytes) -> None:
    answer = running_router.client.post("/v1/chat/completions", content=body)
    expect_error(answer, 415, code="unsupported_content_encoding")
