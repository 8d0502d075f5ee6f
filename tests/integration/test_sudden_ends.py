"""Children and routers that are killed, hang, or never become ready."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_broken_stream, expect_error, expect_retry_after
from tests.support.models import Models
from tests.support.observing import (
    descendants,
    in_background,
    is_alive,
    kill_child,
    loads,
    metric,
    read_to_the_end,
    stream,
    wait_for_llama,
    wait_for_queue,
    wait_for_status,
)
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.llama, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]


def test_a_child_killed_after_its_grace_restarts_at_once(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"chat": models.entry("chat")}, system={"restart_grace_sec": 0.001}) as running:
        # More often than failures would be forgiven.
        for restarts in range(1, 7):
            assert running.chat("chat").status_code == 200
            pid = kill_child(running, "chat")
            wait_until(lambda: running.status("chat").get("restarts") == restarts, what="the restart")  # noqa: B023
            assert wait_for_status(running, "chat", "ready")["pid"] != pid
        assert running.chat("chat").status_code == 200
        assert metric(running, "router_restarts_total", model="chat") == 6
        assert loads(running, "chat") == 7


def test_a_child_killed_within_its_grace_backs_off_first(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"chat": models.entry("chat")}, system={"restart_grace_sec": 600}) as running:
        assert running.chat("chat").status_code == 200
        kill_child(running, "chat")
        status = wait_for_status(running, "chat", "failed")
        assert "SIGKILL" in status["reason"]
        assert status["retry_at"]
        refused = running.chat("chat")
        expect_error(refused, 503, code="model_backing_off")
        expect_retry_after(refused)
        wait_for_status(running, "chat", "ready")
        assert running.chat("chat").status_code == 200
        assert loads(running, "chat") == 2


def test_a_stream_whose_child_is_killed_says_so(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"slow": models.entry("slow")}, system={"restart_grace_sec": 0.001}) as running:
        with stream(running, "slow", max_tokens=2000) as response:
            kill_child(running, "slow")
            wire, ended = read_to_the_end(response)
        assert not ended
        expect_broken_stream(wire)
        wait_for_status(running, "slow", "ready")
        assert running.chat("slow").status_code == 200


def test_a_killed_router_leaves_no_process_behind(models: Models, tmp_path: Path) -> None:
    configured = {"chat": models.entry("chat"), "slow": models.entry("slow"), "loading": models.entry("chat")}
    with router(tmp_path, configured) as running:
        assert running.chat("chat").status_code == 200
        with stream(running, "slow", max_tokens=2000):
            running.client.post("/v1/models/load", json={"model": "loading"})
            children = {running.status(model)["pid"] for model in ("chat", "slow")}
            left = descendants(running)
            assert children < set(left), "the guard is one of them"
            assert running.stop(signal.SIGKILL) == -signal.SIGKILL
            wait_until(lambda: not any(map(is_alive, left)), 1.0, "the end of every child, and of the guard,")
    with router(tmp_path, configured) as running:
        assert running.chat("chat").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_router_told_to_stop_lets_streams_finish(models: Models, tmp_path: Path, number: int) -> None:
    with router(tmp_path, {"slow": models.entry("slow")}) as running:
        with stream(running, "slow", max_tokens=150) as response:
            left = descendants(running)
            running.process.send_signal(number)
            wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        assert running.process.wait(timeout=20) == 0
        assert not any(map(is_alive, left))
        assert "Traceback" not in running.log


def test_a_router_told_to_stop_turns_waiters_away(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"slow": models.entry("slow")}) as running, in_background() as pool:
        with stream(running, "slow", max_tokens=200) as response:
            waiter = pool.submit(running.chat, "slow")
            wait_for_queue(running, "slow", 1)
            running.process.send_signal(signal.SIGTERM)
            expect_error(waiter.result(), 503, code="shutting_down")
            expect_retry_after(waiter.result())
            wire, _ = read_to_the_end(response)
        assert wire.endswith(b"data: [DONE]\n\n")
        assert running.process.wait(timeout=20) == 0


def test_a_second_signal_is_obeyed_faster(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"slow": models.entry("slow")}) as running:
        with stream(running, "slow", max_tokens=2000):
            left = descendants(running)
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "shutting down" in running.log, what="the first signal")
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(timeout=5)
        assert not any(map(is_alive, left))


def test_a_load_that_takes_too_long_is_given_up_with_all_that_came_of_it(models: Models, tmp_path: Path) -> None:
    configured = {"never": {"model_path": str(models.chat), "flags": ["--never-ready", "--fork-grandchild"]}}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, system={"load_timeout_sec": 1}, env=env) as running, in_background() as pool:
        wait_for_llama(running)
        answer = pool.submit(running.chat, "never")
        wait_until(lambda: "grandchild" in child_log(running, "never"), what="the child's start")
        family = [running.status("never")["pid"], int(child_log(running, "never").split("grandchild ")[1].split()[0])]
        assert all(map(is_alive, family))
        assert booked(running)
        error = expect_error(answer.result(), 503, code="model_backing_off")
        assert "1 s" in error["message"]
        expect_retry_after(answer.result())
        wait_until(lambda: not any(map(is_alive, family)), what="the end of the whole tree")
        wait_until(lambda: not booked(running), what="its memory")
        assert running.status("never")["status"] == "failed"


def child_log(running: RunningRouter, model: str) -> str:
    """What the model's children have said so far."""
    file = running.folder / "state" / "logs" / f"{model}.log"
    return file.read_text() if file.is_file() else ""


def booked(running: RunningRouter) -> int:
    """Bytes, on all devices."""
    devices = running.client.get("/vram").json()["devices"]
    return sum(int(device["booked_bytes"]) for device in devices)


def test_a_generation_that_stalls_is_given_up(models: Models, tmp_path: Path) -> None:
    configured = {"stalling": {"model_path": str(models.chat), "flags": ["--stall-after-tokens", "3"]}}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, system={"request_timeout_sec": 1}, env=env) as running:
        expect_error(running.chat("stalling", max_tokens=9), 504, code="upstream_stalled")
        with stream(running, "stalling", max_tokens=9) as response:
            wire, ended = read_to_the_end(response)
        assert not ended
        assert expect_broken_stream(wire)["code"] == "upstream_stalled"


def test_a_router_that_native_code_aborts_leaves_its_last_words_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path / "r", {"m": {"model_path": str(tmp_path / "m.gguf")}}, env=env) as running:
        assert running.chat("m").status_code == 200
        processes = descendants(running)
        assert running.stop(signal.SIGABRT) == -signal.SIGABRT
        wait_until(lambda: not any(map(is_alive, processes)), what="the end of its processes")
    assert "Fatal Python error: Aborted" in running.log
