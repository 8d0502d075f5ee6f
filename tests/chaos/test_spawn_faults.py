"""Children that cannot be started as they were to be: the binary may not be run any more, the port is somebody's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import httpx
import pytest

from tests.support.control import FakeChild, control
from tests.support.expect import expect_error
from tests.support.observing import loads, metric
from tests.support.puppets import puppets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")


def test_a_binary_that_is_lost_while_the_router_runs_is_named(tmp_path: Path) -> None:
    """Root, too, may run nothing without an executable bit."""
    binary, elsewhere = tmp_path / "llama-server", tmp_path / "elsewhere"
    with puppets(tmp_path, {"not executable": (), "gone": (), "loaded": ()}) as running:
        assert running.chat("loaded").status_code == 200
        binary.chmod(0o644)
        unfit = running.chat("not executable")
        binary.rename(elsewhere)
        gone = running.chat("gone")
        for refused in (unfit, gone):
            assert str(binary) in expect_error(refused, 503, code="model_failed")["message"]
        assert running.chat("loaded").status_code == 200, "what runs goes on"
        assert running.client.get("/readyz").status_code == 200
        elsewhere.rename(binary)
        binary.chmod(0o755)
        for model in ("not executable", "gone"):
            assert running.client.post(f"/v1/models/{model}/reset").status_code == 200
            assert running.chat(model).status_code == 200
            assert loads(running, model, "failure") == loads(running, model) == 1
        assert "Traceback" not in running.log


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
    yield found
    for server in found:
        server.shutdown()
        server.server_close()


def test_a_port_that_is_taken_between_its_choice_and_its_use(tmp_path: Path) -> None:
    """The child exists and has been told its port, and has not opened it yet, when somebody else does."""
    with control(tmp_path) as port, neighbours() as took:

        def take(child: FakeChild) -> None:
            if not took:
                took.append(ThreadingHTTPServer(("127.0.0.1", child.port), Neighbour))
                Thread(target=took[0].serve_forever, daemon=True).start()

        port.met = take
        with puppets(tmp_path, {"m": ("--control", str(port.path))}) as running:
            assert running.chat("m").status_code == 200
            lost, found = port.children
            assert lost.port == took[0].server_port != found.port
            assert running.status("m")["pid"] == found.pid
            assert metric(running, "router_restarts_total", model="m") == 0
            assert loads(running, "m") == 1
            assert loads(running, "m", "failure") == 0
            assert {path for path, _ in Neighbour.heard} <= {"/health", "/props"}, "no request was handed to it"
            with httpx.Client(base_url=f"http://127.0.0.1:{found.port}") as client:
                for _, shown in Neighbour.heard:  # the lost child's key may be among them
                    assert client.get("/props", headers={"authorization": shown}).status_code == 401
