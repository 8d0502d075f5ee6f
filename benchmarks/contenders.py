"""Those who are measured, each a process of its own on the relay's core: the router, nginx, the bare relay."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Target
from benchmarks.machine import ROOT, Cores
from benchmarks.pinned import environment, pinned
from benchmarks.script import MODEL
from scripts.make_demo_models import ModelSpec, write_model

_START_SEC = 30.0
_STOP_SEC = 20.0
_POLL_SEC = 0.05
SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Contender:
    """Attributes:
    documents, streams: where it takes either kind of work.
    process: the one that does the work; None = nobody stands between.
    """

    name: str
    documents: Target
    streams: Target
    process: psutil.Process | None = None

    def target(self, *, stream: bool) -> Target:
        return self.streams if stream else self.documents

    def cpu_seconds(self) -> float:
        """User and system time it has taken so far."""
        if self.process is None:
            return 0.0
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def kernel_seconds(self) -> float:
        """The system's part of it."""
        return 0.0 if self.process is None else float(self.process.cpu_times().system)

    def memory(self) -> int:
        """Resident bytes."""
        return 0 if self.process is None else int(self.process.memory_info().rss)


@contextlib.contextmanager
def upstream(cores: Cores) -> Iterator[Contender]:
    """The fake upstream without a key, asked directly."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.fast_upstream", "--port", str(port), "-np", str(SLOTS)]
    with started(pinned(cores.load, *command)) as process:
        wait_for_port(port, process)
        yield Contender("direct", Target(port), Target(port, closes=True))


@contextlib.contextmanager
def bare_relay(cores: Cores, upstream_port: int) -> Iterator[Contender]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_relay", "--port", str(port)]
    command += ["--upstream", f"http://127.0.0.1:{upstream_port}"]
    with started(pinned(cores.relay, *command)) as process:
        wait_for_port(port, process)
        yield Contender("bare relay", Target(port), Target(port), psutil.Process(process.pid))


@contextlib.contextmanager
def router(
    cores: Cores,
    folder: Path,
    *,
    llama: Sequence[str] | None = None,
    model: Path | None = None,
    flags: Sequence[str] = ("-np", str(SLOTS)),
    program: Sequence[str] = (str(ROOT / "run.py"),),
) -> Iterator[Contender]:
    """The real router with everything on: a key, the queue, metrics, telemetry, request ids, the access log.

    Args:
        folder: for its configuration, state and log.
        llama: the command it starts as llama-server; the fake upstream by default.
        model: the file it serves; a tiny one by default.
        program: how it is run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, key = free_port(), secrets.token_urlsafe(24)
    command = llama or (sys.executable, "-m", "benchmarks.fast_upstream")
    binary = executable(folder / "llama-server", pinned(cores.load, *command))
    entry = {"model_path": str(model or write_model(folder / "model.gguf", ModelSpec())), "flags": list(flags)}
    config = {
        "api": {"host": "127.0.0.1", "port": port},
        "system": {"base_port": free_port(), "state_dir": "state", "preload_models": ["*"]},
        "models": {MODEL: entry},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    env = {**environment(), "API_KEY": key, "LLAMA_SERVER_PATH": str(binary), "CONFIG_PATH": "", "BASE_MODELS_PATH": ""}
    with (
        (folder / "router.log").open("wb") as log,
        started(pinned(cores.relay, sys.executable, *program), cwd=folder, env=env, output=log) as process,
    ):
        wait_until(lambda: _is_ready(port, key), f"the router's model (see {log.name})", process)
        target = Target(port, key)
        yield Contender("router", target, target, psutil.Process(process.pid))


@contextlib.contextmanager
def started(
    command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None, output: Any = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block."""
    process = subprocess.Popen(
        command, cwd=cwd, env=env or environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens. Raises RuntimeError when the process ends before, TimeoutError."""

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    wait_until(listens, f"port {port}", process)


def wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a llama-server has loaded its model. Raises RuntimeError, TimeoutError."""
    wait_until(lambda: _get(port, "/health")[0] == 200, f"the llama-server on port {port}", process)


def wait_until(met: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SEC
    while not met():
        if process.poll() is not None:
            raise RuntimeError(f"{what} will not come: its process ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was waited for in vain for {_START_SEC:g} s")
        time.sleep(_POLL_SEC)


def nginx_found() -> str | None:
    """Debian keeps it where only root's PATH leads."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


def executable(path: Path, command: Sequence[str]) -> Path:
    """A script that runs this command with what it is called with behind it."""
    search = shlex.quote(str(ROOT))
    path.write_text(f'#!/bin/sh\nPYTHONPATH={search} exec {shlex.join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def _get(port: int, path: str, key: str = "") -> tuple[int, bytes]:
    """Status and body; (0, b"") when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _is_ready(port: int, key: str) -> bool:
    status, body = _get(port, f"/v1/models/{MODEL}/status", key)
    return status == 200 and json.loads(body)["status"] == "ready"
