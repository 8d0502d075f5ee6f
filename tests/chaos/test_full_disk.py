"""A disk that takes nothing more: neither the router's own log, nor its children's, nor its state."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.learned import FILE
from tests.fakes.fake_binary import make_fake_binary
from tests.support.containment import contained
from tests.support.models import Models
from tests.support.observing import descendants, is_alive, kill_child, read_to_the_end, stream, wait_for_status
from tests.support.puppets import puppets
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="by prlimit, or by a mount namespace")

MIB = 4


@dataclass(frozen=True)
class Disk:
    """What a router writes to.

    Attributes:
        full: nothing can be written to it, to the end of the block.
        folder: with all of it: the state, the logs and the router's own log.
    """

    running: RunningRouter
    full: Callable[[], AbstractContextManager[None]]
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "router.log").read_text()

    @property
    def written(self) -> str:
        """What of the children is written down."""
        return "".join(file.read_text() for file in (self.folder / "state").glob("children-*.json"))


@contextmanager
def no_bytes(pid: int) -> Iterator[None]:
    """Every write of the router fails; not those of its children."""
    process = psutil.Process(pid)
    soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """A file that fills the disk to the last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while os.statvfs(folder).f_bfree:
            with suppress(OSError):  # the router took the last of it meanwhile
                file.write(bytes(4096))
    yield
    with suppress(FileNotFoundError):  # the disk went with the router
        filler.unlink()


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, models: Models, tmp_path: Path) -> Iterator[Disk]:
    """A router with two fake models, on a disk that can be filled."""
    configured = {name: {"model_path": str(models.chat), "flags": ["--token-delay", "0.01"]} for name in "ab"}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    system: dict[str, Any] = {"restart_grace_sec": 0.001}
    if request.param == "limit":
        with router(tmp_path, configured, system=system, env=env) as running:
            yield Disk(running, partial(no_bytes, running.process.pid), tmp_path)
        return
    mounted = tmp_path / "disk"
    mounted.mkdir()
    program, obstacle = contained("disk", str(mounted), str(MIB))
    if obstacle:
        pytest.skip(obstacle)
    system["state_dir"] = "disk/state"
    with router(tmp_path, configured, system=system, env=env, program=program) as running:
        inside = Path(f"/proc/{running.process.pid}/root{mounted}")
        yield Disk(running, partial(no_room, inside), inside)


def test_serving_goes_on_and_ends_in_order(disk: Disk) -> None:
    running = disk.running
    assert running.chat("a").status_code == 200
    with stream(running, "a", max_tokens=30) as response, disk.full():
        wire, _ = read_to_the_end(response)
        assert wire.endswith(b"data: [DONE]\n\n")
        assert running.chat("b").status_code == 200, "a model is loaded, though its process is written down nowhere"
        kill_child(running, "a")
        assert running.chat("a").status_code == 200
        done = running.client.post("/v1/models/eject", json={"model": "b"})
        assert done.json() == {"model": "b", "status": "off"}
        assert running.client.get("/readyz").status_code == 200
        size = len(disk.log)
    assert running.chat("a").status_code == 200
    wait_until(lambda: len(disk.log) > size, what="the log that goes on")
    assert running.chat("b").status_code == 200
    last = [int(wait_for_status(running, model, "ready")["pid"]) for model in "ab"]
    wait_until(lambda: all(str(pid) in disk.written for pid in last), what="their numbers, written down again")
    assert "Traceback" not in disk.log
    with disk.full():
        assert running.stop() == 0
    assert not any(map(is_alive, last))


def test_a_disk_that_hangs_holds_up_no_stream_and_not_the_end(tmp_path: Path) -> None:
    """Under a model's log, and under what was learned. Whoever opens these pipes waits until somebody reads."""
    state = tmp_path / "state"
    (state / "logs").mkdir(parents=True)
    os.mkfifo(state / "logs" / "m.log")
    with puppets(tmp_path, {"m": ("--token-delay", "0.01")}) as running:
        os.mkfifo(state / f".{FILE}.{running.process.pid}.tmp")
        with stream(running, "m", max_tokens=30) as response:
            left = descendants(running)
            wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        assert running.stop() == 0
        assert not any(map(is_alive, left))
        assert "does not take what is written to it" in running.log
        assert "what was learned about memory is not kept" in running.log
        assert "ending though threads hang" in running.log
