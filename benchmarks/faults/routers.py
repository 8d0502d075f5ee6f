"""Routers that are killed: what is left of their children, and what a neighbour notices."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from benchmarks.contenders import free_port
from benchmarks.figures import Figure, Goal
from scripts.make_demo_models import ModelSpec, write_model
from tests.fakes.fake_binary import make_fake_binary
from tests.support.router import router
from tests.support.waiting import wait_until

_MARK = "FAULTS_MARK"
_GRACE_SEC = 1.0
_LOOK_SEC = 0.01
_MODELS = 2


def measure(folder: Path, count: int) -> list[Figure]:
    """Kill so many routers, at any moment from their start on, each with children that have children of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    left, slowest, family, touched = 0, 0.0, 0, 0
    with _neighbour(folder / "neighbour") as (neighbour, port):
        for number in range(count):
            seen, remaining, seconds = _kill_one(folder / "router", mark=f"{folder}-{number}", early=number % 4 == 0)
            family, left, slowest = family + seen, left + remaining, max(slowest, seconds)
            touched += neighbour.poll() is not None or not _healthy(port)
    work = f"{count:,} router SIGKILLs, {family:,} children and grandchildren"
    none = Goal("at most", 0)
    return [
        Figure(work, f"left after 1 s (the last one was gone after {slowest:.2f} s)", "", left, none, ""),
        Figure(work, "times that a neighbour's llama-server was touched", "", touched, none, ""),
    ]


def _kill_one(folder: Path, *, mark: str, early: bool) -> tuple[int, int, float]:
    """Start a router and kill it; how many it had, how many are left a second later, and when the last one went."""
    folder.mkdir(parents=True, exist_ok=True)
    file = write_model(folder / "model.gguf", ModelSpec())
    entry = {"model_path": str(file), "flags": ["--fork-grandchild"], "env": {_MARK: mark}, "preload": True}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(folder))}
    with router(folder, {f"m{number}": entry for number in range(_MODELS)}, env=env) as running:
        if early:
            time.sleep(random.uniform(0, 0.5))
        else:
            wait_until(lambda: all(_is_ready(running.client, f"m{n}") for n in range(_MODELS)), 30, "its children")
        seen = len(_marked(mark))
        running.process.kill()
        running.process.wait()
        killed = time.monotonic()
        while (left := len(_marked(mark))) and time.monotonic() < killed + _GRACE_SEC:
            time.sleep(_LOOK_SEC)
    return seen, left, time.monotonic() - killed


@contextlib.contextmanager
def _neighbour(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Somebody else's llama-server of the same kind, started as a router starts its own."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(make_fake_binary(folder)), "--port", str(port), "-m", "model.gguf"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _healthy(port), what="the neighbour")
        yield process, port
    finally:
        process.kill()
        process.wait()


def _marked(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == mark:
                found.append(process.pid)
    return found


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _is_ready(client: httpx.Client, model: str) -> bool:
    return bool(client.get(f"/v1/models/{model}/status").json()["status"] == "ready")
