"""Children that are stopped, starved, leak, or cannot be had, behind a running router."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.backends.oom import OomEvidence, OomWitness
from router.core.types import HOST, Placement
from router.state_lock import state_lock
from tests.fakes.fake_binary import make_fake_binary
from tests.support.containment import contained
from tests.support.control import control
from tests.support.expect import expect_error
from tests.support.observing import descendants, in_background, is_alive, metric, wait_for_queue
from tests.support.router import ROOT, RUN, RunningRouter, free_port, router
from tests.support.threads import no_thread_left
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


# --- there, and at a standstill


@pytest.mark.skipif(sys.platform != "linux", reason="threads as Linux has them")
def test_children_at_a_standstill_are_replaced_and_lose_no_request(tmp_path: Path) -> None:
    """One was stopped; one is a zombie that a thread keeps from being waited for, as if it hung in a driver."""
    words = {
        "stopped": "its process was stopped by a signal (SIGSTOP)",
        "zombie": "its process has ended, and yet it is not gone (a zombie)",
    }
    with control(tmp_path) as port, in_background(5) as pool:
        told = entry(tmp_path, "--control", str(port.path))
        models = {"stopped": told, "zombie": told, "other": entry(tmp_path)}
        with router(tmp_path, models, system={"restart_grace_sec": 0.001}, env=fakes(tmp_path)) as running:
            for model in words:
                assert running.chat(model).status_code == 200
            children = {child.model: child for child in port.children}
            asked = []
            for model, child in children.items():
                child.tell(stall_after_tokens=0)  # unlike those that will follow it
                asked.append(pool.submit(running.chat, model))
                wait_until(lambda: running.status(model).get("busy") == 1, what="the request's slot")  # noqa: B023
                asked.append(pool.submit(running.chat, model))
                wait_for_queue(running, model, 1)
            began = time.monotonic()
            os.kill(children["stopped"].pid, signal.SIGSTOP)
            pool.submit(children["zombie"].do, "become_zombie")
            wait_until(lambda: psutil.Process(children["zombie"].pid).status() == psutil.STATUS_ZOMBIE, what="a zombie")
            assert running.chat("other").status_code == 200
            for child in children.values():
                wait_until(lambda: not psutil.pid_exists(child.pid), 10, "the end of a child")  # noqa: B023
            assert [answer.result().status_code for answer in asked] == [200] * 4
            assert time.monotonic() - began < 10
            for model, why in words.items():
                assert metric(running, "router_restarts_total", model=model) == 1
                assert why in running.log


# --- what they leave


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces")
def test_of_children_and_their_offspring_nothing_is_left_not_even_zombies(tmp_path: Path) -> None:
    """Each has a grandchild that lives and three that have ended and that it does not wait for.

    The router is the first process of a container, where that can be had: then all orphans fall to it.
    """
    program, obstacle = contained("first")
    with control(tmp_path) as port:
        m = entry(tmp_path, "--control", str(port.path))
        with router(tmp_path, {"crashing": m, "ejected": m}, system={"restart_grace_sec": 0.001}, env=fakes(tmp_path),
                    program=RUN if obstacle else program) as running:  # fmt: skip
            everyone = psutil.Process(running.process.pid)
            for model in running.models:
                assert running.chat(model).status_code == 200
                port.children[-1].do("fork")
                port.children[-1].do("fork_zombies", 3)
            crashing, ejected = (descendant(everyone, child.port) for child in port.children)
            family = [one for child in (crashing, ejected) for one in (child, *child.children(recursive=True))]
            assert [is_alive(one.pid) for one in family].count(False) == 6
            assert len(family) == 10
            crashing.kill()
            running.client.post("/v1/models/eject", json={"model": "ejected"})
            wait_until(lambda: not any(is_alive(one.pid) for one in family), 1, "their end")
            wait_until(lambda: not zombies_of(everyone), 1, "that each was waited for")
            assert running.chat("crashing").status_code == 200


def descendant(root: psutil.Process, port: int) -> psutil.Process:
    """The one that was told this port; numbers are of no use across namespaces."""
    return next(one for one in root.children(recursive=True) if str(port) in one.cmdline())


def zombies_of(root: psutil.Process) -> list[psutil.Process]:
    return [one for one in root.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]


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


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing is read ahead here")
async def test_calls_that_hang_keep_no_model_from_loading_and_no_end_from_being_told(
    launch: Launch, tmp_path: Path
) -> None:
    """The loop has a handful of threads, and a disk that hangs may have them all."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    launcher = launch(make_fake_binary(tmp_path))
    await launcher.prepare()
    async with asyncio.timeout(20), no_thread_left():
        await launcher.read_ahead("m", lambda: 1 << 30)
        child = await launcher.launch("m", 1, Placement({HOST: 1}))
        os.kill(child.pid, signal.SIGKILL)
        assert "SIGKILL" in (await child.wait()).reason
    await child.stop(grace=0)


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


def test_a_load_that_the_kernel_kills_for_its_memory_is_named_and_tried_with_more(
    small_cgroup: Path, tmp_path: Path
) -> None:
    """The first child is moved to a cgroup that is too small for it, so that it gets no further than that."""
    fake, first = make_fake_binary(tmp_path, name="fake"), tmp_path / "first"
    glutton = shlex.join([sys.executable, "-I", "-S", "-c", "x = bytearray(1 << 30)"])
    binary = tmp_path / "llama-server"
    binary.write_text(
        f'#!/bin/sh\ncase "$*" in *--port*) if mkdir {first}; then echo $$ > {small_cgroup}/cgroup.procs && '
        f'exec {glutton}; fi;; esac 2>/dev/null\nexec {fake} "$@"\n'
    )
    binary.chmod(0o755)
    with router(tmp_path, {"m": entry(tmp_path)}, env={"LLAMA_SERVER_PATH": str(binary)}) as running:
        before = host_bytes(running)
        assert running.chat("m").status_code == 200, running.log
        assert re.search(r"m ended: .* was killed by SIGKILL: (probably )?out of memory, (as|by) ", running.log)
        assert running.log.count("loading m (replica") == 2
        assert host_bytes(running) >= before * 5 // 4


def host_bytes(running: RunningRouter) -> int:
    """What the model is expected to take."""
    return int(running.client.get("/v1/models/m").json()["memory"]["host_bytes"])


@pytest.mark.skipif(OomWitness(1).testify() is OomEvidence.UNKNOWN, reason="this kernel does not count its OOM kills")
async def test_a_child_killed_by_somebody_is_not_taken_for_one(launch: Launch, tmp_path: Path) -> None:
    child = await launch(make_fake_binary(tmp_path, "--never-ready")).launch("m", 1, Placement({HOST: 1}))
    os.kill(child.pid, signal.SIGKILL)
    ended = await child.wait()
    assert "not for lack of memory" in ended.reason
    assert ended.exhausted is None
    await child.stop(grace=0)
