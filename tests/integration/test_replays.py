"""Children that are killed before they have answered, and what becomes of the requests they had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_error
from tests.support.models import Models
from tests.support.observing import in_background, kill_child, metric
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def kill_at_work(running: RunningRouter) -> None:
    wait_until(lambda: running.status("fake").get("busy") == 1, what="the request's slot")
    kill_child(running, "fake")


@pytest.mark.parametrize("grace", [0.001, 600], ids=["restarts at once", "pauses first"])
def test_a_request_survives_the_death_of_its_child(grace: float, models: Models, tmp_path: Path) -> None:
    configured = {"fake": {"model_path": str(models.chat), "flags": ["--prefill-delay", "1"]}}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with (
        router(tmp_path, configured, system={"restart_grace_sec": grace}, env=env) as running,
        in_background() as pool,
    ):
        answer = pool.submit(running.chat, "fake")
        kill_at_work(running)
        assert answer.result().status_code == 200
        assert metric(running, "router_replays_total", model="fake") == 1
        assert metric(running, "router_requests_total", model="fake", status="success") == 1


def test_a_request_that_kills_its_child_does_so_three_times_at_most(models: Models, tmp_path: Path) -> None:
    configured = {"fake": {"model_path": str(models.chat), "flags": ["--crash-after-tokens", "0"]}}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, system={"restart_grace_sec": 0.001}, env=env) as running:
        refused = running.chat("fake")
        expect_error(refused, 502, code="upstream_failed")
        assert refused.headers["x-should-retry"] == "false"
        wait_until(lambda: running.status("fake").get("restarts") == 3, what="the third restart")
        assert metric(running, "router_replays_total", model="fake") == 2
