"""The router itself stands still for a while, as on a machine that sleeps or swaps, and goes on."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.observing import in_background, metric, read_to_the_end, stream, wait_for_queue
from tests.support.puppets import puppets
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

STANDSTILL = 1.5  # seconds; more than a request may go without progress
BOUNDS = {"health_interval_sec": 0.5, "health_failures": 2, "request_timeout_sec": 1}


def test_a_router_that_stood_still_blames_nobody(tmp_path: Path) -> None:
    flags = ("-np", "1", "--token-delay", "0.02")
    with puppets(tmp_path, {"m": flags}, system=BOUNDS) as running, in_background() as pool:
        with stream(running, "m", max_tokens=50) as response:
            queued = pool.submit(running.chat, "m")
            wait_for_queue(running, "m", 1)
            pid = running.status("m")["pid"]
            running.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + STANDSTILL)
            running.process.send_signal(signal.SIGCONT)
            wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        assert queued.result().status_code == 200
        assert running.status("m")["pid"] == pid
        assert metric(running, "router_restarts_total", model="m") == 0
        assert metric(running, "router_event_loop_stall_seconds_sum") > 1
        assert "the event loop stood still for" in running.log
        assert running.client.get("/readyz").status_code == 200
