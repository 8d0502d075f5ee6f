"""Clients that take their time, that are many, or that go on sending when they have their answer."""

from __future__ import annotations

import resource
import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.support.expect import expect_error, expect_retry_after
from tests.support.models import Models
from tests.support.observing import metric, relayed
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until
from tests.support.wire import Wire

MIB = 1024 * 1024
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONNECTIONS = 60
LIMITS = {
    "header_timeout_sec": 1,
    "body_timeout_sec": 1,
    "keep_alive_sec": 1,
    "max_connections": CONNECTIONS,
    "max_open_requests": 4,
    "max_body_mb": 1,
}


@pytest.fixture(scope="module")
def strict(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router without patience."""
    with router(tmp_path_factory.mktemp("strict"), {"chat": models.entry("chat")}, api=LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def survives(strict: RunningRouter) -> Iterator[None]:
    """However it was treated, it serves and has kept no connection."""
    yield
    wait_until(lambda: strict.client.get("/health").status_code == 200)
    wait_until(lambda: metric(strict, "router_connections_open") <= 2, what="the end of their connections")
    assert metric(strict, "router_requests_open") == 1, "more than the scrape itself"
    assert "Traceback" not in strict.log


def drip(wire: Wire, piece: bytes, *, every: float, most: float) -> None:
    """Send a piece again and again until the router says something, for so many seconds at most."""
    end = time.monotonic() + most
    while time.monotonic() < end and not select.select([wire.socket], [], [], every)[0]:
        try:
            wire.send(piece)
        except OSError:
            return


def refuses(wire: Wire, piece: bytes) -> bool:
    """Whether it takes no more."""
    try:
        wire.send(piece)
    except OSError:
        return True
    return False


def test_one_that_says_nothing(strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        assert wire.closed()


def test_one_that_asks_for_nothing_more(strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        wire.send(GET)
        assert wire.answer().status_code == 200
        assert wire.closed()


def test_one_whose_body_ended_by_a_read_of_its_own(strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        wire.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        wait_until(lambda: metric(strict, "router_requests_open") == 2, what="the request's arrival")
        wire.send(b"0\r\n\r\n")
        expect_error(wire.answer(), 400)
        assert wire.closed()  # as idle, and not told of a head that it never began


def test_a_head_that_drips(strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        wire.send(b"GET / HTTP/1.1\r\n")
        drip(wire, b"a: b\r\n", every=0.1, most=10)
        expect_error(wire.answer(), 408, code="request_timeout")
        assert wire.closed()


@pytest.mark.parametrize("piece", [b"", b" "], ids=["stops", "drips"])
def test_a_body_that(piece: bytes, strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        wire.send(HEAD % 100_000)
        drip(wire, piece, every=0.1, most=10)
        error = expect_error(wire.answer(), 408, code="request_timeout")
        assert "body_timeout_sec" in error["message"]
        assert wire.closed()
    assert relayed(strict) == 0


def test_a_body_on_a_slow_link_arrives(strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        wire.send(HEAD % 100_000)
        drip(wire, b" " * 2000, every=0.2, most=2.5)  # longer than a body may stand still
        assert wire.silent()
        wire.send(b" " * 100_000)
        expect_error(wire.answer(), 400)  # blanks are no JSON, but they have been read


def test_a_refused_sender_hears_why(strict: RunningRouter) -> None:
    body = bytes(8 * MIB)
    with Wire(strict.url) as wire:
        wire.send(HEAD % len(body) + body)
        answer = wire.answer()
        expect_error(answer, 413, code="request_too_large")
        assert answer.headers["connection"] == "close"


def test_one_that_never_stops_sending_is_left(strict: RunningRouter) -> None:
    with Wire(strict.url) as wire:
        wire.send(HEAD % (1000 * MIB))
        expect_error(wire.answer(), 413)
        wait_until(lambda: refuses(wire, bytes(1000)), what="the end of the router's patience")


def test_more_connections_than_may_be_open(strict: RunningRouter) -> None:
    served = strict.client.get("/v1/models")  # and its connection is kept
    assert served.status_code == 200
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(strict.url)) for _ in range(CONNECTIONS + 20)]
        answer = wires[-1].answer()
        expect_error(answer, 503, code="overloaded")
        expect_retry_after(answer)
        wait_until(lambda: metric(strict, "router_connections_open") <= 2, what="the end of those that were silent")
        assert metric(strict, "router_refusals_total", reason="connections") >= 20
        with Wire(strict.url) as fresh:
            fresh.send(GET)
            assert fresh.answer().status_code == 200


def test_more_requests_than_may_be_open(strict: RunningRouter) -> None:
    with ExitStack() as stack:
        for _ in range(LIMITS["max_open_requests"]):
            wire = stack.enter_context(Wire(strict.url))
            wire.send(GET.replace(b"models", b"models/status/stream"))
            assert b" 200 OK" in wire.read()
        for path in (b"/v1/models", b"/metrics/stream", b"/metrics?model=chat", b"/healthy"):
            with Wire(strict.url) as one_more:
                one_more.send(GET.replace(b"/v1/models", path))
                answer = one_more.answer()
            expect_error(answer, 503, code="overloaded")
            expect_retry_after(answer)
        assert strict.client.get("/health").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_no_open_files_left(strict: RunningRouter) -> None:
    process = psutil.Process(strict.process.pid)
    assert strict.client.get("/health").status_code == 200
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    with Wire(strict.url) as served, ExitStack() as stack:
        served.send(GET.replace(b"/v1/models", b"/metrics/stream"))
        assert b" 200 OK" in served.read()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + 3, before[1]))
        try:
            wires = [stack.enter_context(Wire(strict.url)) for _ in range(30)]
            assert wires[-1].closed()
            assert served.read(), "whoever is in is served"
            assert served.read()
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
