"""A real router in a process of its own, with real llama.cpp behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
RUN = (str(ROOT / "run.py"),)
START_DEADLINE = 30.0
_END_SEC = 0.5  # from the end of its connections to that of a process that dies


@dataclass
class RunningRouter:
    """Attributes:
    url: where it listens, no trailing slash.
    api_key: what it demands; empty = no key.
    models: what its configuration says.
    """

    url: str
    api_key: str
    folder: Path
    process: subprocess.Popen[bytes]
    models: Mapping[str, Any]
    client: httpx.Client = field(repr=False)

    @property
    def log(self) -> str:
        return (self.folder / "router.log").read_text(encoding="utf-8", errors="replace")

    def status(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/models/{model}/status").json()
        return found

    def chat(self, model: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}], **fields}
        return self.client.post("/v1/chat/completions", json=body, headers=headers)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def router(
    folder: Path,
    models: Mapping[str, Any],
    *,
    api: Mapping[str, Any] | None = None,
    system: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    api_key: str = "",
    program: Sequence[str] = RUN,
) -> Iterator[RunningRouter]:
    """Start `run.py` in `folder` with this configuration; ends it however the block ends.

    Set LLAMA_SERVER_PATH to run every test on a llama-server binary in place of the embedded llama.cpp.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "api": {"host": "127.0.0.1", "port": port, **(api or {})},
        "system": {"base_port": free_port(), "state_dir": "state", **(system or {})},
        "models": models,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with launched(folder, port, models=models, env=env, api_key=api_key, program=program) as running:
        yield running


@contextmanager
def launched(
    folder: Path,
    port: int,
    *arguments: str,
    models: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    api_key: str = "",
    program: Sequence[str] = RUN,
) -> Iterator[RunningRouter]:
    """Start `run.py` in `folder`, where it will listen on `port`; ends it however the block ends.

    Args:
        program: what is run by Python in place of `run.py`.
    """
    kept_out = ("API_KEY", "API_KEYS", "ADMIN_API_KEY", "METRICS_TOKEN", "CONFIG_PATH")
    environ = {key: value for key, value in os.environ.items() if key not in kept_out}
    environ |= {"PYTHONUNBUFFERED": "1", **({"API_KEY": api_key} if api_key else {}), **(env or {})}
    command = [sys.executable, *program, *arguments]
    with (folder / "router.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT)
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)
    found = RunningRouter(f"http://127.0.0.1:{port}", api_key, folder, process, models or {}, client)
    try:
        wait_until(lambda: _listens(found), START_DEADLINE, "the router's socket")
        yield found
    except BaseException as error:
        _note_its_end(error, found)
        raise
    finally:
        client.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _note_its_end(error: BaseException, router: RunningRouter) -> None:
    """Whose connection broke, or was refused, had better hear of it if the router had ended."""
    with suppress(subprocess.TimeoutExpired):
        code = router.process.wait(timeout=_END_SEC)
        error.add_note(f"The router had ended, with code {code}. Its last words:\n{router.log[-4000:]}")


def _listens(router: RunningRouter) -> bool:
    assert router.process.poll() is None, f"the router ended by itself:\n{router.log}"
    try:
        return router.client.get("/health").status_code == 200
    except httpx.TransportError:
        return False
