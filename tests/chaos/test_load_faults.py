"""Loads that take their time, and children that end as if all were well, beside a model that notices nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.control import Control, FakeChild, control
from tests.support.expect import expect_error
from tests.support.observing import in_background, loads, metric
from tests.support.puppets import puppets
from tests.support.router import RunningRouter
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

MODELS = ("slow", "polite", "late", "other")


@dataclass(frozen=True)
class Loading:
    """A router whose models load as the control port tells, all but `other`, which is there and stays so."""

    running: RunningRouter
    control: Control

    def children(self, model: str) -> list[FakeChild]:
        return [child for child in self.control.children if child.model == model]


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loading]:
    folder: Path = tmp_path_factory.mktemp("loading")
    system = {"restart_grace_sec": 0.001, "max_concurrent_models": len(MODELS)}
    with control(folder) as port:
        flags = ("--control", str(port.path))
        with puppets(folder, dict.fromkeys(MODELS, flags), system=system) as running:
            yield Loading(running, port)
            assert "Traceback" not in running.log


@pytest.fixture(autouse=True)
def others_unaffected(loading: Loading) -> Iterator[None]:
    assert loading.running.chat("other").status_code == 200
    yield
    assert loading.running.chat("other").status_code == 200
    assert len(loading.children("other")) == 1


def test_a_slow_start_is_waited_for(loading: Loading) -> None:
    loading.control.plan("slow", never_ready=True)
    with in_background() as pool:
        answer = pool.submit(loading.running.chat, "slow")
        wait_until(lambda: bool(loading.children("slow")), what="the child")
        assert loading.running.chat("other").status_code == 200
        assert not answer.done()
        loading.children("slow")[0].tell(never_ready=False)
        assert answer.result().status_code == 200


def test_an_end_with_code_0_is_a_crash(loading: Loading) -> None:
    running = loading.running
    loading.control.plan("polite", exit_code=0)
    refused = running.chat("polite")
    assert "though nobody had asked it to end" in expect_error(refused, 503, code="model_failed")["message"]
    assert running.status("polite")["status"] == "failed"
    assert loads(running, "polite", "failure") == 1

    assert running.chat("late").status_code == 200
    loading.children("late")[0].do("exit", 0)
    wait_until(lambda: running.status("late").get("restarts") == 1, what="the restart")
    assert running.chat("late").status_code == 200
    assert metric(running, "router_restarts_total", model="late") == 1
    assert "though nobody had asked it to" in running.log
