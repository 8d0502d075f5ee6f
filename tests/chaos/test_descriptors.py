"""A router that has no file descriptor left: it says so, takes nothing out on its children, and recovers."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from router.api.server import Server, listen
from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.core.types import HOST, Placement
from router.engine.ports import LaunchError
from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_error, expect_retry_after
from tests.support.observing import metric
from tests.support.router import free_port, router
from tests.support.waiting import wait_until

if sys.platform != "linux":
    pytest.skip("prlimit and /proc are Linux's", allow_module_level=True)
import resource


@contextmanager
def exhausted(pid: int) -> Iterator[None]:
    """Leave this process the descriptors that it has open, and no other."""
    kind = resource.RLIMIT_NOFILE
    listed = list(Path(f"/proc/{pid}/fd").iterdir())
    taken = {int(entry.name) for entry in listed if entry.is_symlink()}  # the listing's own is closed by now
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
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path / "r", models, env=env) as running:
        assert running.chat("m").status_code == 200
        pid = running.status("m")["pid"]
        with exhausted(running.process.pid):
            refused = running.chat("m", stream=True)
            assert "file descriptors" in expect_error(refused, 503, code="overloaded")["message"]
            expect_retry_after(refused)
            not_loaded = running.chat("cold")
            assert "Too many open files" in expect_error(not_loaded, 503, code="model_backing_off")["message"]
            expect_retry_after(not_loaded)
            assert running.client.get("/health").status_code == 200
        wait_until(lambda: running.chat("cold").status_code == 200, what="the other model")
        assert running.chat("m", stream=True).status_code == 200
        assert running.status("m")["pid"] == pid
        assert metric(running, "router_restarts_total", model="m") == 0
        assert "Traceback" not in running.log


async def test_a_health_check_that_cannot_be_made_says_nothing_about_the_child(tmp_path: Path) -> None:
    launcher = LlamaServerLauncher({"m": LlamaServerSpec(tmp_path / "m.gguf")}, state_dir=tmp_path / "state",
                                   base_port=free_port(), binary=make_fake_binary(tmp_path))  # fmt: skip
    child = await launcher.launch("m", 1, Placement({HOST: 1}))
    with exhausted(os.getpid()):
        assert await child.healthy()
        with pytest.raises(LaunchError, match="Too many open files") as refused:
            await launcher.launch("m", 2, Placement({HOST: 1}))
        assert refused.value.passing
    await child.ready()
    assert await child.healthy()
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    assert not await child.healthy()
    await child.stop(grace=0)
    await launcher.close()


async def come_again(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"come again"})


async def test_the_end_takes_no_descriptor() -> None:
    listening = asyncio.Event()
    with ExitStack() as stack, listen("127.0.0.1", 0) as sock:
        server = Server(
            come_again,
            on_listening=listening.set,
            on_exit=lambda: None,
            on_deadline=lambda: stack.enter_context(exhausted(os.getpid())),
            on_hurry=lambda: None,
            drain=lambda: 0.0,
        )
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await listening.wait()
        server.exit()
        await serving
