"""SIGTERM, whatever the router is doing: what runs may finish, what comes is told, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks import drain
from router.learned import FILE
from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_broken_stream, expect_error, expect_retry_after
from tests.support.observing import descendants, in_background, is_alive, read_to_the_end, stream
from tests.support.puppets import puppets
from tests.support.router import ROOT, RunningRouter, free_port
from tests.support.waiting import wait_until

SLOW = ("-np", "4", "--token-delay", "0.05")
DEADLINE = 10.0


def terminate(running: RunningRouter) -> None:
    """Send SIGTERM, and wait until it has been heard."""
    before = running.log.count("SIGTERM")
    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: running.log.count("SIGTERM") > before, DEADLINE, "the signal")


def expect_clean_end(running: RunningRouter, left: list[int]) -> None:
    assert running.process.wait(timeout=DEADLINE) == 0
    assert not any(map(is_alive, left))
    assert "Traceback" not in running.log


def ask(port: int, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which so much of a request has been sent."""
    found = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    found.sendall(head.replace("\n", "\r\n").encode() + body)
    return found


def the_rest(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def test_a_hundred_streams_finish_before_the_router_ends() -> None:
    outcome = drain.measure(100, token_sec=0.04)
    assert (outcome.truncated, outcome.code) == (0, 0)


def test_whoever_comes_while_streams_finish_is_told_why_and_when_to_come_again(tmp_path: Path) -> None:
    with puppets(tmp_path, {"slow": SLOW, "idle": ()}) as running:
        assert running.chat("idle").status_code == 200
        idle = running.status("idle")["pid"]
        with stream(running, "slow", max_tokens=60) as response, in_background() as pool:
            left = descendants(running)
            terminate(running)
            with httpx.Client(base_url=running.url) as newcomer:
                for model in ("slow", "idle"):
                    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
                    refused = newcomer.post("/v1/chat/completions", json=body)
                    expect_error(refused, 503, code="shutting_down")
                    expect_retry_after(refused)
                expect_error(newcomer.get("/readyz"), 503, code="not_ready")
                expect_error(newcomer.post("/v1/reload"), 503, code="shutting_down")
                assert newcomer.get("/health").status_code == 200
            pool.submit(wait_until, lambda: not is_alive(idle), DEADLINE, "the end of an idle child").result()
            wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        expect_clean_end(running, left)
        assert (running.folder / "state" / FILE).is_file(), "what was learned is kept"


CHAT = "POST /v1/chat/completions HTTP/1.1\nhost: localhost\ncontent-length: 1000\n\n"


def test_what_is_not_whole_does_not_hold_the_end_up(tmp_path: Path) -> None:
    with puppets(tmp_path, {"m": SLOW}) as running:
        port = int(running.url.rpartition(":")[2])
        assert running.chat("m").status_code == 200
        left = descendants(running)
        with (
            closing(ask(port, CHAT, b'{"model": "m", ')) as half_a_body,
            closing(ask(port, CHAT)) as no_body,
            closing(ask(port, "POST /v1/models/load HTTP/1.1\nhost: localhost\ncontent-length: 9\n\n")) as to_a_handler,
            closing(ask(port, "GET /health HT")) as half_a_head,
            closing(ask(port, "GET /health HTTP/1.1\nhost: localhost\n\n")) as idle,
        ):
            assert idle.recv(65536).startswith(b"HTTP/1.1 200")
            wait_until(lambda: len(psutil.Process(running.process.pid).net_connections("tcp")) >= 6, DEADLINE, "all")
            terminate(running)
            for connection in (half_a_body, no_body, to_a_handler):
                told = the_rest(connection).lower()
                assert told.startswith(b"http/1.1 503 ")
                assert b"\r\nretry-after: 5\r\n" in told
                assert b'"code":"shutting_down"' in told
            assert the_rest(half_a_head) == the_rest(idle) == b""
            expect_clean_end(running, left)


def test_who_takes_too_long_is_told_and_ended(tmp_path: Path) -> None:
    models = {"slow": SLOW, "stubborn": ("--ignore-term", "--fork-grandchild")}
    with puppets(tmp_path, models, system={"drain_timeout_sec": 0.3}) as running:
        assert running.chat("stubborn").status_code == 200
        with stream(running, "slow", max_tokens=10_000) as response:
            left = descendants(running)
            terminate(running)
            wire, ended = read_to_the_end(response)
        assert not ended
        assert expect_broken_stream(wire)["code"] == "shutting_down"
        expect_clean_end(running, left)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with puppets(tmp_path, {"slow": SLOW, "stubborn": (*SLOW, "--ignore-term")}) as running:
        assert running.chat("stubborn").status_code == 200
        with stream(running, "slow", max_tokens=10_000) as response:
            left = descendants(running)
            terminate(running)
            terminate(running)
            wire, ended = read_to_the_end(response)
        assert not ended
        assert expect_broken_stream(wire)["code"] == "shutting_down"
        expect_clean_end(running, left)


def test_loads_and_restores_are_given_up(tmp_path: Path) -> None:
    """Half a minute is what a child may take to restore what it is given."""
    trouble = tmp_path / "trouble"
    trouble.mkdir()
    keeps = ("--prompt-ms", "20000", "--slot-bytes", "64", "--slot-trouble", str(trouble))
    with puppets(tmp_path, {"loading": ("--never-ready",), "keeps": keeps}) as running, in_background() as pool:
        said = [
            {"role": "user", "content": "Once upon a time there was a token that nobody wanted to read again. " * 20}
        ]
        assert running.chat("keeps", messages=said).status_code == 200
        running.client.post("/v1/models/eject", json={"model": "keeps"})
        assert list((tmp_path / "state" / "conversations").glob("*/*")), "something was kept"
        (trouble / "hang").touch()
        running.client.post("/v1/models/load", json={"model": "keeps"})
        log = tmp_path / "state" / "logs" / "keeps.log"
        wait_until(lambda: log.read_text().count("is listening") == 2, DEADLINE, "the second child")
        waiter = pool.submit(running.chat, "loading")
        wait_until(lambda: "pid" in running.status("loading"), DEADLINE, "the start of the other")
        assert running.status("keeps")["status"] == running.status("loading")["status"] == "loading"
        left = descendants(running)
        terminate(running)
        expect_error(waiter.result(), 503, code="shutting_down")
        expect_retry_after(waiter.result())
        expect_clean_end(running, left)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_before_it_listens(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    models = {"m": {"model_path": "m.gguf", "flags": ["--never-ready"], "preload": True}}
    config = {"api": {"host": "127.0.0.1", "port": free_port()}, "models": models}
    (tmp_path / "config.json").write_text(json.dumps(config))
    env = {**os.environ, "LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    command = [sys.executable, str(ROOT / "run.py")]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as starting:
        wait_until(lambda: handles(starting.pid, signal.SIGTERM), DEADLINE, "the first that it does")
        starting.terminate()
        _, told = starting.communicate(timeout=DEADLINE)
    assert starting.returncode == 0, told
    assert "Traceback" not in told


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_reload_that_is_asked_for_during_the_start_is_done_after_it(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    config = {"api": {"host": "127.0.0.1", "port": free_port()}, "models": {"m": {"model_path": "m.gguf"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    env = {**os.environ, "LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    log = tmp_path / "log"
    with log.open("wb") as told:
        starting = subprocess.Popen([sys.executable, str(ROOT / "run.py")], cwd=tmp_path, env=env, stderr=told)
    try:
        wait_until(lambda: handles(starting.pid, signal.SIGHUP), DEADLINE, "the first that it does")
        starting.send_signal(signal.SIGHUP)
        wait_until(lambda: " read anew" in log.read_text(), DEADLINE, "what became of it")
    finally:
        starting.terminate()
        assert starting.wait(timeout=DEADLINE) == 0
    assert "configuration read anew: nothing has changed" in log.read_text()


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has something of its own to do at this signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)
