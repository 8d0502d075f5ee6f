"""The configuration is read anew while the router works: only what changed is touched, and mistakes change nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.make_demo_models import ModelSpec, write_model
from tests.support.expect import expect_error
from tests.support.observing import (
    at_once,
    descendants,
    in_background,
    is_alive,
    loads,
    metric,
    read_to_the_end,
    stream,
    wait_for_queue,
    wait_for_status,
)
from tests.support.puppets import configuration, configure, puppet, puppets, reload
from tests.support.router import RunningRouter
from tests.support.waiting import wait_until

NOTHING = {
    "added": [],
    "removed": [],
    "changed": {},
    "restarted": [],
    "unchanged": 3,
    "applied": [],
    "restart_required": [],
}
PACE = ("--token-delay", "0.02")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    folder = tmp_path_factory.mktemp("reload")
    models = {"a": PACE, "b": PACE, "c": PACE}
    with puppets(folder, models, system={"max_concurrent_models": 4, "restart_grace_sec": 0.001}) as running:
        (folder / "first.json").write_text((folder / "config.json").read_text())
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def running(shared: RunningRouter) -> RunningRouter:
    """With its first configuration, and nothing in memory."""
    assert reload(shared, (shared.folder / "first.json").read_text()).status_code == 200
    for model in shared.models:
        shared.client.post("/v1/models/eject", json={"model": model, "force": True})
        wait_for_status(shared, model, "off")
    return shared


def done(running: RunningRouter, document: dict[str, Any] | None = None, **expected: Any) -> None:
    """Have it read anew, and compare what is told."""
    response = reload(running, document)
    assert response.status_code == 200, response.text
    assert response.json() == NOTHING | expected


def test_a_comment_or_a_new_order_disturbs_nobody(running: RunningRouter) -> None:
    with stream(running, "a", max_tokens=30) as response:
        before = {name: running.status(name).get("pid") for name in ("a", "b", "c")}
        document = configuration(running)
        document["models"] = dict(reversed(document["models"].items()))
        configure(running, json.dumps(document, indent=4) + "\n\n")
        done(running)
        wire, ended = read_to_the_end(response)
    assert ended
    assert wire.endswith(b"data: [DONE]\n\n")
    assert {name: running.status(name).get("pid") for name in ("a", "b", "c")} == before


def test_a_new_model_is_there_at_once_and_disturbs_nobody(running: RunningRouter) -> None:
    assert running.chat("a").status_code == 200
    pid = running.status("a")["pid"]
    document = configuration(running)
    document["models"]["new"] = puppet(running.folder, aliases=["newest"], preload=True)
    done(running, document, added=["new"])
    wait_for_status(running, "new", "ready")
    assert running.chat("newest").json()["model"] == "new"
    assert {entry["id"] for entry in running.client.get("/v1/models").json()["data"]} == {"a", "b", "c", "new"}
    assert metric(running, "router_requests_total", model="new", status="success") == 1
    assert running.status("a")["pid"] == pid


def test_changed_flags_let_streams_finish_and_serve_waiters_with_the_new_ones(running: RunningRouter) -> None:
    with stream(running, "a", max_tokens=60) as response, in_background(2) as pool:
        old = running.status("a")["pid"]
        first = pool.submit(running.chat, "a")
        wait_for_queue(running, "a", 1)
        document = configuration(running)
        document["models"]["a"]["flags"] = ["-np", "2"]
        done(running, document, changed={"a": ["flags"]}, restarted=["a"], unchanged=2)
        second = pool.submit(running.chat, "a")
        wait_for_queue(running, "a", 2)
        assert running.status("a")["status"] == "draining"
        assert "configuration" in running.status("a")["reason"]
        wire, ended = read_to_the_end(response)
        assert [answer.result().status_code for answer in (first, second)] == [200, 200]
    assert ended
    assert wire.endswith(b"data: [DONE]\n\n")
    status = running.status("a")
    assert status["slots"] == 2
    assert status["pid"] != old
    assert not is_alive(old)


def test_a_file_that_was_replaced_restarts_its_model(running: RunningRouter) -> None:
    own = running.folder / "own.gguf"
    own.write_bytes(b"GGUF")
    document = configuration(running)
    document["models"]["a"]["model_path"] = str(own)
    done(running, document, changed={"a": ["model_path"]}, unchanged=2)
    assert running.chat("a").status_code == 200
    own.write_bytes(b"GGUF, and more of it")
    done(running, changed={"a": ["files"]}, restarted=["a"], unchanged=2)


@pytest.mark.parametrize(("name", "way"), [("a", "chat"), ("b", "load")])
def test_a_replaced_file_is_read_anew_before_the_next_load(running: RunningRouter, name: str, way: str) -> None:
    own = write_model(running.folder / f"{way}.gguf", ModelSpec())
    document = configuration(running)
    document["models"][name]["model_path"] = str(own)
    done(running, document, changed={name: ["model_path"]}, unchanged=2)
    assert running.chat(name).status_code == 200
    before, pid = memory(running, name), running.status(name)["pid"]
    write_model(own, ModelSpec(layers=12, embd=256))
    assert running.chat(name).status_code == 200
    assert running.status(name)["pid"] == pid, "what runs goes on"
    running.client.post("/v1/models/eject", json={"model": name})
    order = {"model": name, "wait": True}
    answer = running.chat(name) if way == "chat" else running.client.post("/v1/models/load", json=order)
    assert answer.status_code == 200, answer.text
    assert memory(running, name) > before + own.stat().st_size // 2
    assert f"the files of {name} were replaced" in running.log
    done(running)


def memory(running: RunningRouter, model: str) -> int:
    found: int = running.client.get(f"/v1/models/{model}").json()["memory"]["host_bytes"]
    return found


def test_a_removed_model_takes_no_more_and_finishes_what_it_has(running: RunningRouter) -> None:
    with stream(running, "a", max_tokens=60) as response, in_background() as pool:
        pid = running.status("a")["pid"]
        waiter = pool.submit(running.chat, "a")
        wait_for_queue(running, "a", 1)
        document = configuration(running)
        del document["models"]["a"]
        done(running, document, removed=["a"], unchanged=2)
        error = expect_error(waiter.result(), 404, code="model_not_found")
        assert "removed from the configuration" in error["message"]
        expect_error(running.chat("a"), 404, code="model_not_found")
        assert running.client.get("/v1/models/status").json()["models"]["a"]["status"] == "draining"
        wire, ended = read_to_the_end(response)
    assert ended
    assert wire.endswith(b"data: [DONE]\n\n")
    wait_until(lambda: not is_alive(pid), what="the end of the child")
    wait_until(lambda: "a" not in running.client.get("/v1/models/status").json()["models"], what="its memory")


def test_a_removed_model_that_loads_is_given_up(running: RunningRouter) -> None:
    document = configuration(running)
    document["models"]["loading"] = puppet(running.folder, "--never-ready")
    done(running, document, added=["loading"])
    with in_background() as pool:
        waiter = pool.submit(running.chat, "loading")
        wait_for_status(running, "loading", "loading")
        del document["models"]["loading"]
        done(running, document, removed=["loading"])
        expect_error(waiter.result(), 404, code="model_not_found")


def test_a_failed_model_is_tried_again_when_it_is_changed(running: RunningRouter) -> None:
    document = configuration(running)
    document["models"]["a"]["flags"] = ["--exit-code", "1"]
    done(running, document, changed={"a": ["flags"]}, unchanged=2)
    expect_error(running.chat("a"), 503, code="model_failed")
    done(running)
    assert running.status("a")["status"] == "failed"
    document["models"]["a"]["flags"] = []
    done(running, document, changed={"a": ["flags"]}, unchanged=2)
    assert running.chat("a").status_code == 200


def test_rules_change_without_a_restart(running: RunningRouter) -> None:
    assert running.chat("a").status_code == 200
    pid, before = running.status("a")["pid"], loads(running, "a")
    document = configuration(running)
    document["models"]["a"] |= {"aliases": ["also-a"], "pinned": True, "evict_cost": 2, "idle_timeout_sec": 0.2}
    document["system"] |= {"max_queue_size_per_model": 1, "max_concurrent_models": 5}
    document["api"] |= {"cors_origins": ["https://chat.example"], "max_body_mb": 1}
    done(
        running,
        document,
        changed={"a": ["aliases", "idle_timeout_sec", "pinned", "evict_cost"]},
        unchanged=2,
        applied=[
            "api.cors_origins",
            "api.max_body_mb",
            "system.max_concurrent_models",
            "system.max_queue_size_per_model",
        ],
    )
    assert running.chat("also-a", headers={"origin": "https://chat.example"}).headers["access-control-allow-origin"]
    expect_error(running.chat("a", text="x" * (1 << 20)), 413)
    assert (running.status("a")["pid"], loads(running, "a")) == (pid, before)
    done(running, json.loads((running.folder / "first.json").read_text()), changed={"a": ANY_KEYS}, unchanged=2,
         applied=ANY_KEYS)  # fmt: skip
    expect_error(running.chat("also-a"), 404)


def test_a_key_in_the_environment_file_holds_at_once(running: RunningRouter) -> None:
    dotenv = running.folder / ".env"
    dotenv.write_text("API_KEY=first-key\n")
    done(running, applied=["API_KEY"])
    try:
        expect_error(running.chat("a"), 401)
        headers = {"authorization": "Bearer first-key"}
        assert running.chat("a", headers=headers).status_code == 200
        dotenv.unlink()
        gone = running.client.post("/v1/reload", headers=headers)
        assert "/.env: 1 problem\n  - the file is gone" in expect_error(gone, 400, code="config_refused")["message"]
        expect_error(running.chat("a"), 401)
    finally:
        dotenv.write_text("")
        running.client.post("/v1/reload", headers={"authorization": "Bearer first-key"})
    assert running.chat("a").status_code == 200
    assert "first-key" not in running.log


def test_what_needs_a_restart_is_named_and_not_done(running: RunningRouter) -> None:
    document = configuration(running)
    document["api"]["port"] += 1
    document["system"] |= {"state_dir": "elsewhere", "keep_conversations": False}
    waiting = ["api.port", "system.state_dir", "system.keep_conversations"]
    done(running, document, restart_required=waiting)
    done(running, restart_required=waiting)
    assert ", ".join(waiting) in running.log
    assert not (running.folder / "elsewhere").exists()
    assert running.chat("a").status_code == 200


INVALID: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no JSON": ('{"models": {,}}', "not JSON at line 1, column 13"),
    "a duplicate alias": ({"models": {"b": {"aliases": ["a"]}}}, "models.b.aliases[0]"),
    "an unknown key": ({"models": {"b": {"flagz": []}}}, "models.b.flagz"),
    "a missing file": ({"models": {"b": {"model_path": "gone.gguf"}}}, "models.b.model_path"),
}


@pytest.mark.parametrize("wrong", INVALID)
def test_an_invalid_configuration_changes_nothing(wrong: str, running: RunningRouter) -> None:
    refused = metric(running, "router_config_reloads_total", result="refused")
    taken_at = metric(running, "router_config_last_success_timestamp_seconds")
    assert running.chat("a").status_code == 200
    pid = running.status("a")["pid"]
    change, where = INVALID[wrong]
    document: dict[str, Any] | str = change
    if not isinstance(change, str):
        document = configuration(running)
        del document["models"]["c"]
        for name, keys in change["models"].items():
            document["models"][name] |= keys
    error = expect_error(reload(running, document), 400, code="config_refused")
    assert where in error["message"]
    assert running.status("a")["pid"] == pid
    assert running.chat("c").status_code == 200
    assert metric(running, "router_config_reloads_total", result="refused") == refused + 1
    assert metric(running, "router_config_last_success_timestamp_seconds") == taken_at
    assert metric(running, "router_config_last_reload_successful") == 0
    assert where in running.client.get("/v1/models/status").json()["server"]["reload_refused"]
    done(running, json.loads((running.folder / "first.json").read_text()))
    assert "reload_refused" not in running.client.get("/v1/models/status").json()["server"]
    assert metric(running, "router_config_last_reload_successful") == 1


def test_a_file_that_is_gone_changes_nothing(running: RunningRouter) -> None:
    """As it is while an editor or a deployment puts another in its place."""
    assert running.chat("a").status_code == 200
    pid = running.status("a")["pid"]
    (running.folder / "config.json").unlink()
    error = expect_error(reload(running), 400, code="config_refused")
    assert "config.json" in error["message"]
    assert "the file is gone" in error["message"]
    assert running.status("a")["pid"] == pid
    done(running, json.loads((running.folder / "first.json").read_text()))


def test_a_signal_does_it_too(running: RunningRouter) -> None:
    document = configuration(running)
    document["models"]["by-signal"] = puppet(running.folder)
    configure(running, document)
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "added by-signal" in running.log, what="the new model")
    assert running.chat("by-signal").status_code == 200
    configure(running, "[]")
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "expected an object" in running.log, what="the refusal")
    assert running.chat("by-signal").status_code == 200


def test_many_at_once_are_carried_out_one_after_another(running: RunningRouter) -> None:
    document = configuration(running)
    document["models"]["once"] = puppet(running.folder)
    configure(running, document)
    told = [response.json()["added"] for response in at_once([lambda: reload(running)] * 8)]
    assert sorted(told) == [[]] * 7 + [["once"]]


def test_the_status_stream_tells_of_it(running: RunningRouter) -> None:
    with running.client.stream("GET", "/v1/models/status/stream") as events:
        lines = events.iter_lines()
        assert "by-stream" not in next(line for line in lines if line.startswith("data: "))
        document = configuration(running)
        document["models"]["by-stream"] = puppet(running.folder)
        done(running, document, added=["by-stream"])
        told = next(line for line in lines if line.startswith((": ping", 'data: {"server"')))
        found = json.loads(told.removeprefix("data: "))
    assert "by-stream" in found["models"]
    assert found["server"]["reloaded_at"]


def test_what_is_discovered_is_looked_for_again(tmp_path: Path) -> None:
    base = tmp_path / "models"
    base.mkdir()
    (base / "early.gguf").write_bytes(b"GGUF")
    with puppets(tmp_path, {}, env={"BASE_MODELS_PATH": str(base)}) as running:
        left = descendants(running)
        (base / "late.gguf").write_bytes(b"GGUF")
        (base / "early.gguf").unlink()
        assert reload(running).json() == NOTHING | {"added": ["late"], "removed": ["early"], "unchanged": 0}
        assert running.chat("late").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0
    assert not any(map(is_alive, left))


def test_one_that_hangs_on_a_disk_holds_nobody_up_and_not_the_end(tmp_path: Path) -> None:
    with puppets(tmp_path, {"m": ()}) as running:
        file = tmp_path / "config.json"
        file.unlink()
        os.mkfifo(file)  # whoever reads it waits until somebody writes
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP" in running.log, what="the signal")
        assert running.chat("m").status_code == 200
        left = descendants(running)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0
        assert not any(map(is_alive, left))


class _AnyKeys:
    """Equal to every list."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list)

    def __hash__(self) -> int:
        return 0


ANY_KEYS = _AnyKeys()
