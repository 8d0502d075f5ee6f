"""The network between the router and a child that is in good health: a TCP proxy breaks it.

Each time the child goes on as if nothing had been, and so must everything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.support.control import Control, FakeChild, control
from tests.support.expect import expect_broken_stream, expect_error
from tests.support.observing import in_background, metric, read_to_the_end, stream
from tests.support.puppets import puppets
from tests.support.router import RunningRouter, free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="half-closed sockets are POSIX's")

STALLS_AFTER = 1.0  # seconds, without progress
TOKENS = 10
PACE = 0.01  # seconds a token


@dataclass(frozen=True)
class Line:
    """A router, its only child, and what is between them."""

    running: RunningRouter
    proxy: TcpProxy
    child: FakeChild

    def count(self, name: str) -> float:
        return metric(self.running, name, model="m")

    def asked(self) -> int:
        """How many generations the child has begun."""
        return len(self.running.client.get("/upstream/m/fake/requests").json())

    def complete(self, streamed: bool) -> httpx.Response:
        return self.running.client.post("/v1/completions", json={"model": "m", "prompt": "Hi", "stream": streamed})

    @contextmanager
    def unheard(self) -> Iterator[list[Future[httpx.Response]]]:
        """A stream and a document at which the child works, to the end of the block, without having said a word."""
        with in_background(2) as pool:
            asked = self.asked()
            self.child.tell(stall_after_tokens=0)
            found = [pool.submit(self.complete, streamed) for streamed in (True, False)]
            wait_until(lambda: self.asked() == asked + 2, what="their slots")
            yield found
            self.child.tell(stall_after_tokens=None)


@pytest.fixture(scope="module")
def whole_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The child opens another port than it was told, and the proxy the one that it was."""
    folder = tmp_path_factory.mktemp("line")
    with ExitStack() as stack:
        port: Control = stack.enter_context(control(folder))
        proxies: list[TcpProxy] = []

        def stand_between(child: FakeChild) -> None:
            elsewhere = free_port()
            proxies.append(stack.enter_context(TcpProxy(child.port, elsewhere)))
            port.plan("m", port=elsewhere)

        port.met = stand_between
        flags = ("-np", "3", "--token-delay", str(PACE), "--control", str(port.path))
        running = stack.enter_context(puppets(folder, {"m": flags}, system={"request_timeout_sec": STALLS_AFTER}))
        assert running.chat("m").status_code == 200
        yield Line(running, proxies[0], port.children[0])
        assert "Traceback" not in running.log


@pytest.fixture
def line(whole_line: Line) -> Iterator[Line]:
    """Afterwards it is as it was: the same child, all slots idle, no connection left that was broken."""
    pid = whole_line.running.status("m")["pid"]
    yield whole_line
    wait_until(lambda: whole_line.count("router_slots_busy") == 0, what="idle slots")
    wait_until(lambda: whole_line.proxy.undropped() == 0, what="the end of broken connections")
    assert whole_line.running.chat("m").status_code == 200
    assert whole_line.running.status("m")["pid"] == pid
    assert whole_line.count("router_restarts_total") == 0


@pytest.mark.parametrize("fault", [TcpProxy.reset, TcpProxy.half_close], ids=["reset", "half-closed"])
def test_a_cut_line_costs_only_a_stream_that_has_begun(line: Line, fault: Callable[[TcpProxy], None]) -> None:
    asked = line.asked()
    with stream(line.running, "m", max_tokens=1000) as response:
        with line.unheard() as answers:
            fault(line.proxy)
        wire, ended = read_to_the_end(response)
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert not ended
    expect_broken_stream(wire)
    assert line.asked() == asked + 5, "what nobody had heard of was asked again"


def test_what_a_line_swallows_is_given_up(line: Line) -> None:
    asked = line.asked()
    line.child.tell(token_delay=0.3)
    with stream(line.running, "m", max_tokens=TOKENS) as response:
        with line.unheard() as answers:
            line.proxy.swallow()
            line.child.tell(token_delay=PACE)  # it ends what it is at, and nobody hears of it
            # On a connection that was kept, and of which nobody knows yet that it leads nowhere.
            expect_error(line.running.client.get("/props?model=m"), 504, code="upstream_stalled")
        wire, ended = read_to_the_end(response)
        for answer in answers:
            expect_error(answer.result(), 504, code="upstream_stalled")
    assert not ended
    assert expect_broken_stream(wire)["code"] == "upstream_stalled"
    assert line.asked() == asked + 3, "none is asked twice: it may still be at work"


def test_bytes_that_come_one_by_one_are_put_together(line: Line) -> None:
    with stream(line.running, "m", max_tokens=TOKENS) as response:
        whole = read_to_the_end(response)
    document = line.running.chat("m").json()["choices"]
    line.proxy.drip = True
    with stream(line.running, "m", max_tokens=TOKENS) as response:
        assert read_to_the_end(response) == whole
    assert line.running.chat("m").json()["choices"] == document
    line.proxy.drip = False


def test_a_slow_line_is_only_slow(line: Line) -> None:
    line.proxy.delay = 0.1
    with stream(line.running, "m", max_tokens=3) as response:
        wire, ended = read_to_the_end(response)
    assert ended
    assert wire.endswith(b"data: [DONE]\n\n")
    assert line.running.chat("m").status_code == 200
    line.proxy.delay = 0.0
