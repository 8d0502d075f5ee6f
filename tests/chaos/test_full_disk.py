"""A disk that takes nothing more: neither for the router's own log, nor for its children's, nor for its state."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from router.learned import FILE
from tests.fakes.fake_binary import make_fake_binary
from tests.support.models import Models
from tests.support.observing import descendants, is_alive, kill_child, read_to_the_end, stream, wait_for_status
from tests.support.puppets import puppets
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes a running process its disk away by prlimit")


@contextmanager
def full_disk(running: RunningRouter) -> Iterator[None]:
    """No file of the router can be written to, from now to the end of the block."""
    process = psutil.Process(running.process.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))


def test_serving_goes_on(models: Models, tmp_path: Path) -> None:
    configured = {name: {"model_path": str(models.chat), "flags": ["--token-delay", "0.01"]} for name in "ab"}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, system={"restart_grace_sec": 0.001}, env=env) as running:
        assert running.chat("a").status_code == 200
        with stream(running, "a", max_tokens=30) as response, full_disk(running):
            wire, _ = read_to_the_end(response)
            assert wire.endswith(b"data: [DONE]\n\n")
            assert running.chat("b").status_code == 200, "a model is loaded, though its process is written down nowhere"
            kill_child(running, "a")
            assert running.chat("a").status_code == 200
            done = running.client.post("/v1/models/eject", json={"model": "b"})
            assert done.json() == {"model": "b", "status": "off"}
            assert running.client.get("/readyz").status_code == 200
            size = len(running.log)
        assert running.chat("a").status_code == 200
        wait_until(lambda: len(running.log) > size, what="the log that goes on")
        wait_for_status(running, "a", "ready")
        last = int(running.status("a")["pid"])
        assert running.stop() == 0
        assert not is_alive(last)
        assert "Traceback" not in running.log


def test_it_ends_in_order_on_a_full_disk(models: Models, tmp_path: Path) -> None:
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, {"a": {"model_path": str(models.chat)}}, env=env) as running:
        assert running.chat("a").status_code == 200
        pid = int(running.status("a")["pid"])
        with full_disk(running):
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(timeout=20) == 0
        assert not is_alive(pid)


def test_a_disk_that_hangs_holds_up_no_stream_and_not_the_end(tmp_path: Path) -> None:
    """Under a model's log, and under what was learned. Whoever opens these pipes waits until somebody reads."""
    state = tmp_path / "state"
    (state / "logs").mkdir(parents=True)
    os.mkfifo(state / "logs" / "m.log")
    with puppets(tmp_path, {"m": ("--token-delay", "0.01")}) as running:
        os.mkfifo(state / f".{FILE}.{running.process.pid}.tmp")
        with stream(running, "m", max_tokens=30) as response:
            left = descendants(running)
            wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        assert running.stop() == 0
        assert not any(map(is_alive, left))
        assert "does not take what is written to it" in running.log
        assert "what was learned about memory is not kept" in running.log
        assert "ending though threads hang" in running.log
