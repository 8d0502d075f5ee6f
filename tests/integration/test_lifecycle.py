"""Models come and go: eviction, preloading, idling, ejecting, failing, and the order of those who wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_broken_stream, expect_error, expect_retry_after
from tests.support.models import Models
from tests.support.observing import (
    in_background,
    is_alive,
    loads,
    metric,
    queued,
    read_to_the_end,
    stream,
    wait_for_queue,
    wait_for_status,
)
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until
from tests.support.wire import Wire

pytestmark = pytest.mark.llama


@pytest.fixture(scope="module")
def two_at_once(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """Four models of which two may be in memory; each test begins with none."""
    configured = {
        "a": models.entry("chat"),
        "b": models.entry("chatter"),
        "c": models.entry("chat"),
        "slow": models.entry("slow"),
        "corrupt": models.entry("corrupt"),
    }
    with router(tmp_path_factory.mktemp("two"), configured, system={"max_concurrent_models": 2}) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def empty(two_at_once: RunningRouter) -> RunningRouter:
    for model in two_at_once.models:
        two_at_once.client.post("/v1/models/eject", json={"model": model, "force": True})
        wait_for_status(two_at_once, model, "off")
    return two_at_once


def test_the_model_that_is_asked_for_least_makes_room(empty: RunningRouter) -> None:
    before = metric(empty, "router_evictions_total", model="b")
    for model in ("a", "b", *["a"] * 20):
        assert empty.chat(model).status_code == 200
    pid = empty.status("b")["pid"]
    assert empty.chat("c").status_code == 200
    assert empty.status("a")["status"] == empty.status("c")["status"] == "ready"
    assert empty.status("b") == {"status": "off", "last_used": empty.status("b")["last_used"]}
    assert not is_alive(pid)
    assert metric(empty, "router_evictions_total", model="b") == before + 1
    assert empty.chat("b").status_code == 200
    assert empty.status("a")["status"] == "ready"
    assert empty.status("c")["status"] == "off"


def test_a_generating_model_is_never_cut_for_another(empty: RunningRouter) -> None:
    with (
        stream(empty, "slow", max_tokens=200) as first,
        stream(empty, "a", max_tokens=1000) as second,
        in_background() as pool,
    ):
        answer = pool.submit(empty.chat, "b")
        wait_for_queue(empty, "b", 1)
        for response in (second, first):
            wire, ended = read_to_the_end(response)
            assert ended
            assert wire.endswith(b"data: [DONE]\n\n")
        assert answer.result().status_code == 200


def test_nothing_is_loaded_for_a_client_who_has_left(empty: RunningRouter) -> None:
    before = loads(empty, "b")
    with stream(empty, "slow", max_tokens=100) as first, stream(empty, "a", max_tokens=500) as second:
        with Wire(empty.url) as leaver:
            leaver.post("/v1/chat/completions", {"model": "b", "messages": [{"role": "user", "content": "Hi"}]})
            wait_for_queue(empty, "b", 1)
        wait_for_queue(empty, "b", 0)
        for response in (second, first):
            assert read_to_the_end(response)[1]
    assert empty.chat("slow").status_code == empty.chat("a").status_code == 200
    assert empty.status("b")["status"] == "off"
    assert loads(empty, "b") == before


def test_a_model_is_unloaded_when_idle_and_comes_back(models: Models, tmp_path: Path) -> None:
    configured = {"brief": models.entry("chat", idle_timeout_sec=1), "lasting": models.entry("chat")}
    with router(tmp_path, configured) as running:
        for model in ("lasting", "brief"):
            assert running.chat(model).status_code == 200
        pid = running.status("brief")["pid"]
        wait_for_status(running, "brief", "off")
        wait_until(lambda: not is_alive(pid), what="the end of the child")
        assert running.status("lasting")["status"] == "ready"
        assert running.chat("brief").status_code == 200
        assert loads(running, "brief") == 2


def test_a_model_that_generates_is_not_idle(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"slow": models.entry("slow", idle_timeout_sec=0.1)}) as running:
        with stream(running, "slow", max_tokens=150) as response:
            wire, _ = read_to_the_end(response)
        assert wire.endswith(b"data: [DONE]\n\n")
        wait_for_status(running, "slow", "off")
        assert loads(running, "slow") == 1


def test_preloading_does_not_delay_the_socket(models: Models, tmp_path: Path) -> None:
    slow = {"model_path": str(models.chat), "flags": ["--ready-after", "1.5"]}
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, {"early": {**slow, "preload": True}, "late": slow}, env=env) as running:
        assert running.status("early")["status"] == "loading"
        assert running.client.get("/readyz").status_code == 200
        wait_for_status(running, "early", "ready")
        assert running.status("late") == {"status": "off"}


def test_preloading_everything(models: Models, tmp_path: Path) -> None:
    configured = {"a": models.entry("chat"), "b": models.entry("embed")}
    with router(tmp_path, configured, system={"preload_models": ["*"]}) as running:
        for model in configured:
            wait_for_status(running, model, "ready")
            assert loads(running, model) == 1


def test_load_on_demand(empty: RunningRouter) -> None:
    response = empty.client.post("/v1/models/load", json={"model": "a", "wait": True})
    assert (response.status_code, response.json()) == (200, {"model": "a", "status": "ready"})
    assert is_alive(empty.status("a")["pid"])


def test_ejecting_waits_for_what_runs(empty: RunningRouter) -> None:
    with stream(empty, "slow", max_tokens=200) as response, in_background() as pool:
        pid = empty.status("slow")["pid"]
        ejected = pool.submit(empty.client.post, "/v1/models/eject", json={"model": "slow"})
        wait_for_status(empty, "slow", "draining")
        assert not ejected.done()
        wire, ended = read_to_the_end(response)
        assert ended
        assert wire.endswith(b"data: [DONE]\n\n")
        assert ejected.result().json() == {"model": "slow", "status": "off"}
        assert not is_alive(pid)


def test_ejecting_by_force_cuts_what_runs(empty: RunningRouter) -> None:
    with stream(empty, "slow", max_tokens=2000) as response:
        pid = empty.status("slow")["pid"]
        answer = empty.client.post("/v1/models/eject", json={"model": "slow", "force": True})
        assert answer.json() == {"model": "slow", "status": "off"}
        assert not is_alive(pid)
        wire, ended = read_to_the_end(response)
        assert not ended, "a stream that was cut does not end like one that finished"
        expect_broken_stream(wire)


def test_a_model_that_fails_to_load_waits_for_its_turn_and_for_a_reset(empty: RunningRouter) -> None:
    before = loads(empty, "corrupt", "failure")
    first = empty.chat("corrupt")
    expect_error(first, 503, code="model_failed")
    assert first.headers["x-should-retry"] == "false"
    assert empty.status("corrupt")["status"] == "failed"
    assert empty.status("corrupt")["reason"]
    assert list(empty.client.get("/v1/models/failed").json()["models"]) == ["corrupt"]
    again = empty.chat("corrupt")
    expect_error(again, 503)
    expect_retry_after(again)
    assert loads(empty, "corrupt", "failure") == before + 1, "not started anew for each request"
    assert empty.chat("a").status_code == 200, "other models do not notice"
    reset = empty.client.post("/v1/models/corrupt/reset")
    assert (reset.status_code, reset.json()) == (200, {"model": "corrupt", "status": "off"})
    expect_error(empty.chat("corrupt"), 503, code="model_failed")
    assert loads(empty, "corrupt", "failure") == before + 2
    empty.client.post("/v1/models/corrupt/reset")


CLASSES: dict[str, dict[str, Any]] = {
    "low": {"headers": {"X-Request-Priority": "low"}},
    "flex": {"service_tier": "flex"},
    "normal": {},
    "second normal": {"service_tier": "auto"},
    "high": {"headers": {"X-Request-Priority": "high"}},
    "priority": {"service_tier": "priority"},
    "1, whatever the tier": {"headers": {"X-Request-Priority": "1"}, "service_tier": "flex"},
}
SERVED = ["high", "priority", "1, whatever the tier", "normal", "second normal", "low", "flex"]


def test_waiters_are_served_by_class_and_in_order_of_arrival(empty: RunningRouter) -> None:
    ids = {f"in-turn-{number}": name for number, name in enumerate(CLASSES)}

    def ask(request_id: str, fields: dict[str, Any]) -> httpx.Response:
        headers = {"x-request-id": request_id, **fields.get("headers", {})}
        return empty.chat("slow", **{**fields, "headers": headers})

    def served() -> list[str]:
        """In the router's own order: clients may be woken in another."""
        return [ids[found] for found in re.findall(r" id=(in-turn-\d) ", empty.log)]

    with in_background(len(CLASSES)) as pool:
        with stream(empty, "slow", max_tokens=2000):
            answers = []
            for depth, (request_id, name) in enumerate(ids.items(), start=1):
                answers.append(pool.submit(ask, request_id, CLASSES[name]))
                wait_for_queue(empty, "slow", depth)
            assert empty.status("slow")["queued"] == {"high": 3, "normal": 2, "low": 2}
            assert empty.status("slow")["busy"] == 1
            assert served() == []
        assert [answer.result().status_code for answer in answers] == [200] * len(CLASSES)
    wait_until(lambda: len(served()) == len(CLASSES), what="their lines in the log")
    assert served() == SERVED
    assert queued(empty, "slow") == 0


def test_a_class_that_does_not_exist(empty: RunningRouter) -> None:
    error = expect_error(empty.chat("a", headers={"X-Request-Priority": "urgent"}), 400)
    assert "X-Request-Priority" in error["message"]
