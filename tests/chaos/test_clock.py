"""Somebody sets the machine's clock: no wait, no timeout and no pause may notice."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.models import Models
from tests.support.observing import (
    in_background,
    loads,
    read_to_the_end,
    stream,
    wait_for_llama,
    wait_for_queue,
    wait_for_status,
)
from tests.support.router import ROOT, RunningRouter, router
from tests.support.waiting import wait_until

SHIFTED = (str(ROOT / "tests" / "fakes" / "shifted_router.py"),)
HOUR = 3600.0
DIRECTIONS = pytest.mark.parametrize(
    ("number", "hours"), [(signal.SIGUSR1, 1), (signal.SIGUSR2, -1)], ids=["an hour ahead", "an hour back"]
)


def loaded_at(running: RunningRouter, model: str) -> float:
    """The router's own idea of when the model was loaded, by the time of day."""
    return datetime.fromisoformat(running.status(model)["loaded_at"]).timestamp()


@DIRECTIONS
def test_a_clock_that_is_set_ends_nothing(models: Models, tmp_path: Path, number: signal.Signals, hours: int) -> None:
    configured = {"a": {"model_path": str(models.chat), "flags": ["--token-delay", "0.02", "-np", "1"]}}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with (
        router(tmp_path, configured, env=env, program=SHIFTED) as running,
        in_background() as pool,
    ):
        assert running.chat("a").status_code == 200
        before = loaded_at(running, "a")
        with stream(running, "a", max_tokens=30) as response:
            waiter = pool.submit(running.chat, "a")
            wait_for_queue(running, "a", 1)
            running.process.send_signal(number)
            wait_until(lambda: abs(loaded_at(running, "a") - before - hours * HOUR) < 60, what="the new time")
            wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        assert waiter.result().status_code == 200
        assert running.status("a")["status"] == "ready", "no idle timeout (300 s) has passed"
        assert loads(running, "a") == 1
        assert running.client.get("/readyz").status_code == 200


def test_timers_go_on_after_it_was_set_back(models: Models, tmp_path: Path) -> None:
    configured = {
        "brief": {"model_path": str(models.chat), "idle_timeout_sec": 0.3},
        "stuck": {"model_path": str(models.chat), "flags": ["--never-ready"]},
    }
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, system={"load_timeout_sec": 1}, env=env, program=SHIFTED) as running:
        wait_for_llama(running)
        assert running.chat("brief").status_code == 200
        running.process.send_signal(signal.SIGUSR2)
        wait_for_status(running, "brief", "off", 5)
        assert running.chat("stuck").status_code == 503
