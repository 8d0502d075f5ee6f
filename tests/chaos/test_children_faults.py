"""Children that are stopped, starved, leak, or cannot be had, behind a running router."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.backends.oom import OomEvidence, OomWitness
from router.core.types import HOST, DeviceKind, Exhaustion, Placement
from router.engine.ports import LaunchError
from router.state_lock import state_lock
from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_error
from tests.support.observing import descendants, in_background, is_alive, metric, wait_for_queue
from tests.support.router import ROOT, free_port, router
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

CGROUPS = Path("/sys/fs/cgroup")


def fakes(tmp_path: Path) -> dict[str, str]:
    return {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}


def numb(tmp_path: Path) -> dict[str, str]:
    return {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path, program="numb_llama_server.py"))}


def entry(tmp_path: Path, *flags: str, **more: Any) -> dict[str, Any]:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    return {"model_path": str(model), "flags": list(flags), **more}


# --- stopped


def test_a_stopped_child_is_replaced_and_loses_no_request(tmp_path: Path) -> None:
    models = {"m": entry(tmp_path, "--prefill-delay", "1"), "other": entry(tmp_path)}
    with router(tmp_path, models, system={"restart_grace_sec": 0.001}, env=fakes(tmp_path)) as running:
        assert running.chat("m").status_code == 200
        pid = int(running.status("m")["pid"])
        with in_background(2) as pool:
            at_work = pool.submit(running.chat, "m")
            wait_until(lambda: running.status("m").get("busy") == 1, what="the request's slot")
            queued = pool.submit(running.chat, "m")
            wait_for_queue(running, "m", 1)
            began = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            assert running.chat("other").status_code == 200
            wait_until(lambda: not is_alive(pid), deadline=10, what="the end of the stopped child")
            assert at_work.result().status_code == queued.result().status_code == 200
            assert time.monotonic() - began < 10
        assert running.status("m")["pid"] != pid
        assert metric(running, "router_restarts_total", model="m") == 1
        assert "its process was stopped by a signal (SIGSTOP)" in running.log


# --- without a token, and only slow


def test_a_slot_that_hangs_costs_its_child_soon_after_the_bound(tmp_path: Path) -> None:
    models = {"m": entry(tmp_path, "--stall-after-tokens", "2", env={"NUMB": "keep"})}
    system = {"request_timeout_sec": 1, "restart_grace_sec": 0.001}
    with router(tmp_path, models, system=system, env=numb(tmp_path)) as running:
        began = time.monotonic()
        assert running.chat("m").json()["error"]["code"] == "upstream_stalled"
        wait_until(lambda: running.status("m").get("restarts") == 1, what="the restart")
        assert time.monotonic() - began < 16


def test_a_child_that_hears_nobody_while_it_computes_a_long_prompt_is_left_alone(tmp_path: Path) -> None:
    """Neither a health check nor `/slots` is answered meanwhile; only its CPU time tells that it lives."""
    models = {"m": entry(tmp_path, env={"NUMB": "compute:3.5"})}
    system = {"health_interval_sec": 0.1, "health_failures": 1, "request_timeout_sec": 1}
    with router(tmp_path, models, system=system, env=numb(tmp_path)) as running:
        assert running.chat("m").status_code == 200
        assert metric(running, "router_restarts_total", model="m") == 0


# --- leaks


def test_a_leaking_child_is_started_anew_when_it_is_idle(tmp_path: Path) -> None:
    models = {"m": entry(tmp_path, "--token-delay", "0.1", env={"NUMB": "leak:100"}, max_rss_mb=100)}
    with router(tmp_path, models, env=numb(tmp_path)) as running:
        assert running.chat("m", max_tokens=12).status_code == 200, "it is not touched while it works"
        pid = running.status("m")["pid"]
        wait_until(lambda: running.status("m").get("pid") not in {None, pid}, 20, "another process")
        assert running.chat("m", max_tokens=1).status_code == 200
        assert metric(running, "router_recycles_total", model="m") == 1
        assert metric(running, "router_restarts_total", model="m") == 0
        assert "more than max_rss_mb: it is started anew" in running.log


# --- not to be had


def test_a_program_that_does_not_even_say_what_it_can_costs_no_more_than_a_load(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    program.chmod(0o755)
    models, env = {"m": entry(tmp_path)}, {"LLAMA_SERVER_PATH": str(program)}
    with router(tmp_path, models, system={"load_timeout_sec": 0.3}, env=env) as running:
        error = expect_error(running.chat("m"), 503, code="model_backing_off")
        assert "was not started within 0.3 s (load_timeout_sec)" in error["message"]
        left = descendants(running)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0
        assert not any(map(is_alive, left))


# --- another router


def test_a_second_router_in_the_same_state_folder_says_why_it_does_not_start(tmp_path: Path) -> None:
    config = {"api": {"port": free_port()}, "system": {"state_dir": "state"}, "models": {"m": entry(tmp_path)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "state").mkdir()
    with state_lock(tmp_path / "state", "the first router"):
        command = [sys.executable, str(ROOT / "run.py")]
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 2
    assert f"another llama-router (process {os.getpid()}) uses this directory" in second.stderr


# --- out of memory


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 64 MiB; the tests that need it are skipped where none may be made."""
    v2 = (CGROUPS / "cgroup.controllers").exists()
    root = CGROUPS if v2 else CGROUPS / "memory"
    folder = root / f"llama-router-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(64 * 1024**2))
        if v2:
            (folder / "memory.swap.max").write_text("0")
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no memory cgroup may be made here: {error.strerror}")
    yield folder
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), what="the end of all in the cgroup")
    folder.rmdir()


Launch = Callable[[Path], LlamaServerLauncher]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    launchers = []

    def make(binary: Path) -> LlamaServerLauncher:
        spec = LlamaServerSpec(tmp_path / "m.gguf")
        launchers.append(
            LlamaServerLauncher({"m": spec}, state_dir=tmp_path / "state", base_port=free_port(), binary=binary)
        )
        return launchers[-1]

    yield make
    for launcher in launchers:
        await launcher.close()


async def test_a_child_killed_for_its_memory_is_reported_as_such(
    launch: Launch, small_cgroup: Path, tmp_path: Path
) -> None:
    fake = make_fake_binary(tmp_path, name="fake")
    glutton = shlex.join([sys.executable, "-I", "-S", "-c", "x = bytearray(1 << 30)"])
    binary = tmp_path / "llama-server"
    binary.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*|*--help*) exec {fake} "$@";; esac\n'
        f"echo $$ > {small_cgroup}/cgroup.procs\nexec {glutton}\n"
    )
    binary.chmod(0o755)
    child = await launch(binary).launch("m", 1, Placement({HOST: 1}))
    with pytest.raises(LaunchError, match=r"was killed by SIGKILL: (probably )?out of memory, (as|by) "):
        await child.ready()
    assert (await child.wait()).exhausted == Exhaustion(DeviceKind.HOST)
    await child.stop(grace=0)


@pytest.mark.skipif(OomWitness(1).testify() is OomEvidence.UNKNOWN, reason="this kernel does not count its OOM kills")
async def test_a_child_killed_by_somebody_is_not_taken_for_one(launch: Launch, tmp_path: Path) -> None:
    child = await launch(make_fake_binary(tmp_path, "--never-ready")).launch("m", 1, Placement({HOST: 1}))
    os.kill(child.pid, signal.SIGKILL)
    ended = await child.wait()
    assert "not for lack of memory" in ended.reason
    assert ended.exhausted is None
    await child.stop(grace=0)
