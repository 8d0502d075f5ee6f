"""Ten thousand connections that ask for nothing: everybody else is served as before, and they cost little."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.chaos.world import World
from tests.support.observing import metric
from tests.support.waiting import wait_until

resource = pytest.importorskip("resource")

CROWD = 10_000
MOST_EACH = 16 * 1024  # bytes of the router
ENOUGH = CROWD + 500


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may have as many files open as the crowd needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH:
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ENOUGH), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_an_idle_crowd_disturbs_nobody(anything: World) -> None:
    running = anything.running
    process = psutil.Process(running.process.pid)
    assert running.chat("a").status_code == 200
    files, resident = process.num_fds(), process.memory_info().rss
    with ExitStack() as crowd:
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        for _ in range(CROWD):
            crowd.enter_context(socket.create_connection(address))
        wait_until(lambda: metric(running, "router_connections_open") > CROWD, what="the whole crowd")
        assert running.chat("a").status_code == 200
        assert process.memory_info().rss - resident <= CROWD * MOST_EACH
    wait_until(lambda: process.num_fds() <= files, what="the end of the crowd")
    assert running.chat("a").status_code == 200
