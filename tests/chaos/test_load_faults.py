"""Loads that take their time or cannot begin, children that end as if all were well, beside a model that is well."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import httpx
import pytest

from tests.support.control import Control, FakeChild, control
from tests.support.expect import expect_error
from tests.support.observing import in_background, loads, metric
from tests.support.puppets import puppets
from tests.support.router import RunningRouter
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

MODELS = ("slow", "polite", "late", "unfit", "gone", "robbed", "other")


@dataclass(frozen=True)
class Loading:
    """A router whose models load as the control port tells, all but `other`, which is there and stays so."""

    running: RunningRouter
    control: Control

    def children(self, model: str) -> list[FakeChild]:
        return [child for child in self.control.children if child.model == model]


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loading]:
    folder: Path = tmp_path_factory.mktemp("loading")
    system = {"restart_grace_sec": 0.001, "max_concurrent_models": len(MODELS)}
    with control(folder) as port:
        flags = ("--control", str(port.path))
        with puppets(folder, dict.fromkeys(MODELS, flags), system=system) as running:
            yield Loading(running, port)
            assert "Traceback" not in running.log


@pytest.fixture(autouse=True)
def others_unaffected(loading: Loading) -> Iterator[None]:
    assert loading.running.chat("other").status_code == 200
    yield
    assert loading.running.chat("other").status_code == 200
    assert len(loading.children("other")) == 1


class Neighbour(BaseHTTPRequestHandler):
    """A server of somebody else's, in good health, with a key that nobody here knows."""

    heard: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers.get("authorization", "")))
        self.send_response(200 if self.path == "/health" else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *said: object) -> None:
        pass


@contextmanager
def neighbours() -> Iterator[list[ThreadingHTTPServer]]:
    """Room for neighbours, each of which is served by a thread of its own until the end."""
    found: list[ThreadingHTTPServer] = []
    try:
        yield found
    finally:
        for server in found:
            server.shutdown()
            server.server_close()


def test_a_slow_start_is_waited_for(loading: Loading) -> None:
    loading.control.plan("slow", never_ready=True)
    with in_background() as pool:
        answer = pool.submit(loading.running.chat, "slow")
        wait_until(lambda: bool(loading.children("slow")), what="the child")
        assert loading.running.chat("other").status_code == 200
        assert not answer.done()
        loading.children("slow")[0].tell(never_ready=False)
        assert answer.result().status_code == 200


def test_an_end_with_code_0_is_a_crash(loading: Loading) -> None:
    running = loading.running
    loading.control.plan("polite", exit_code=0)
    refused = running.chat("polite")
    assert "though nobody had asked it to end" in expect_error(refused, 503, code="model_failed")["message"]
    assert running.status("polite")["status"] == "failed"
    assert loads(running, "polite", "failure") == 1

    assert running.chat("late").status_code == 200
    loading.children("late")[0].do("exit", 0)
    wait_until(lambda: running.status("late").get("restarts") == 1, what="the restart")
    assert running.chat("late").status_code == 200
    assert metric(running, "router_restarts_total", model="late") == 1
    assert "though nobody had asked it to" in running.log


def test_a_binary_that_is_lost_while_the_router_runs_is_named(loading: Loading) -> None:
    """Root, too, may run nothing without an executable bit."""
    running, binary = loading.running, loading.running.folder / "llama-server"
    elsewhere = binary.with_name("elsewhere")
    binary.chmod(0o644)
    unfit = running.chat("unfit")
    binary.rename(elsewhere)
    gone = running.chat("gone")
    for refused in (unfit, gone):
        assert str(binary) in expect_error(refused, 503, code="model_failed")["message"]
    assert running.chat("other").status_code == 200, "what runs goes on"
    assert running.client.get("/readyz").status_code == 200
    elsewhere.rename(binary)
    binary.chmod(0o755)
    for model in ("unfit", "gone"):
        assert running.client.post(f"/v1/models/{model}/reset").status_code == 200
        assert running.chat(model).status_code == 200
        assert loads(running, model, "failure") == loads(running, model) == 1


def test_a_port_that_is_taken_between_its_choice_and_its_use(loading: Loading) -> None:
    """The child exists and has been told its port, and has not opened it yet, when somebody else does."""
    running = loading.running
    with neighbours() as took:

        def take(child: FakeChild) -> None:
            if not took:
                took.append(ThreadingHTTPServer(("127.0.0.1", child.port), Neighbour))
                Thread(target=took[0].serve_forever, daemon=True).start()

        loading.control.met = take
        assert running.chat("robbed").status_code == 200
        lost, found = loading.children("robbed")
        assert lost.port == took[0].server_port != found.port
        assert running.status("robbed")["pid"] == found.pid
        assert metric(running, "router_restarts_total", model="robbed") == 0
        assert loads(running, "robbed") == 1
        assert loads(running, "robbed", "failure") == 0
        assert {path for path, _ in Neighbour.heard} <= {"/health", "/props"}, "no request was handed to it"
        with httpx.Client(base_url=f"http://127.0.0.1:{found.port}") as client:
            for _, shown in Neighbour.heard:  # the lost child's key may be among them
                assert client.get("/props", headers={"authorization": shown}).status_code == 401
