"""A router that has no file descriptor left: it says so, takes nothing out on its children, and recovers."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_error, expect_retry_after
from tests.support.observing import metric
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

if sys.platform != "linux":
    pytest.skip("prlimit and /proc are Linux's", allow_module_level=True)
import resource


@contextmanager
def exhausted(running: RunningRouter) -> Iterator[None]:
    """Leave the router the descriptors that it has open, and no other."""
    pid, kind = running.process.pid, resource.RLIMIT_NOFILE
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (next(n for n in itertools.count() if n not in taken), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def test_without_a_descriptor_requests_are_refused_and_children_live_on(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    models = {"m": {"model_path": str(model)}, "cold": {"model_path": str(model)}}
    system = {"health_interval_sec": 0.05, "health_failures": 1}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path / "r", models, system=system, env=env) as running:
        assert running.chat("m").status_code == 200
        pid = running.status("m")["pid"]
        with exhausted(running):
            refused = running.chat("m", stream=True)
            assert "file descriptors" in expect_error(refused, 503, code="overloaded")["message"]
            expect_retry_after(refused)
            not_loaded = running.chat("cold")
            assert "Too many open files" in expect_error(not_loaded, 503, code="model_backing_off")["message"]
            expect_retry_after(not_loaded)
            for _ in range(200):  # time for some health checks that cannot be made
                assert running.client.get("/health").status_code == 200
        wait_until(lambda: running.chat("cold").status_code == 200, what="the other model")
        assert running.chat("m", stream=True).status_code == 200
        assert running.status("m")["pid"] == pid
        assert metric(running, "router_restarts_total", model="m") == 0
        assert "Traceback" not in running.log
