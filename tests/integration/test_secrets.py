"""A whole router with keys that can be recognised: none shows anywhere, and no request reaches a command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping

import httpx
import psutil
import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.models import Models
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the binary")

KEYS = {
    "API_KEY": "sk-recognisable-default",
    "API_KEYS": "alice:sk-recognisable-alice",
    "ADMIN_API_KEY": "sk-recognisable-admin",
    "METRICS_TOKEN": "sk-recognisable-metrics",
}
MARK = "recognisable"
ADMIN = {"x-api-key": KEYS["ADMIN_API_KEY"]}
PROMPT = "what-nobody-else-shall-read"


@pytest.fixture(scope="module")
def guarded(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """With a model that prints its key, and one that ends with it on its lips."""
    folder = tmp_path_factory.mktemp("guarded")
    env = {name: value for name, value in KEYS.items() if name != "API_KEY"}
    env["LLAMA_SERVER_PATH"] = str(make_fake_binary(folder))
    configured = {
        "fake": {"model_path": str(models.chat), "flags": ["--print-key"], "env": {"HF_TOKEN": "hf-recognisable"}},
        "broken": {"model_path": str(models.chat), "flags": ["--print-key", "--exit-code", "3"]},
    }
    with router(folder, configured, env=env, api_key=KEYS["API_KEY"]) as running:
        yield running


def child_environment(running: RunningRouter) -> Mapping[str, str]:
    answer = running.client.get("/upstream/fake/fake/process", headers=ADMIN)
    found: dict[str, str] = answer.json()["env"]
    return found


def processes(running: RunningRouter) -> list[psutil.Process]:
    own = psutil.Process(running.process.pid)
    return [own, *own.children(recursive=True)]


def arguments(running: RunningRouter) -> list[list[str]]:
    return [process.cmdline() for process in processes(running)]


def everything_said(running: RunningRouter) -> dict[str, str]:
    """Each place that anybody but the owner of a key may read, and what is there."""
    client = running.client
    said = {path: client.get(path, headers=ADMIN).text for path in (
        "/", "/health", "/readyz", "/metrics", "/vram", "/docs", "/openapi.json", "/slots?model=fake",
        "/props?model=fake", "/v1/models", "/v1/models/status", "/v1/models/failed", "/v1/models/broken/status",
        "/v1/health/models", "/v1/queue/stats", "/v1/telemetry/summary",
    )}  # fmt: skip
    for wrong in ("", "Bearer", *(f"Basic {key}" for key in KEYS.values()), f"Bearer {KEYS['API_KEY']}x"):
        said[f"401 {wrong}"] = client.get("/v1/models", headers={"authorization": wrong}).text
    said["403"] = client.post("/v1/models/eject", json={"model": "fake"}).text
    for key in KEYS.values():  # who sends a key in the wrong place shall not find it in the log
        secret = key.rpartition(":")[2]
        client.get(f"/{secret}", headers={"x-request-id": secret, "x-request-priority": secret, "user-agent": secret})
    said["503"] = client.post("/v1/chat/completions", json={"model": "broken"}).text
    for stream in ("/v1/models/status/stream", "/metrics/stream"):
        with client.stream("GET", stream, headers=ADMIN) as answer:
            said[stream] = next(answer.iter_text())
    said["the log"] = running.log
    said["command lines"] = str(arguments(running))
    files = [file for file in (running.folder / "state").rglob("*") if file.is_file()]
    return said | {str(file): file.read_text(encoding="utf-8", errors="replace") for file in files}


def test_no_secret_shows_anywhere(guarded: RunningRouter) -> None:
    assert guarded.chat("fake").status_code == 200
    secret = child_environment(guarded)["LLAMA_API_KEY"]
    assert len(secret) > 20
    log = guarded.folder / "state" / "logs" / "fake.log"
    wait_until(lambda: "[redacted]" in log.read_text(), what="what it has printed")
    said = everything_said(guarded)
    assert "[redacted]" in said[str(log)]
    assert {place for place, text in said.items() if MARK in text.replace("401 ", "") or secret in text} == set()


def test_whoever_has_no_key_learns_no_path(guarded: RunningRouter) -> None:
    wait_until(lambda: "version" in httpx.get(f"{guarded.url}/health").json()["llama_server"], what="llama.cpp's")
    for path in ("/health", "/healthz", "/docs", "/openapi.json", "/v1/models", "/upstream/fake/props"):
        assert str(guarded.folder) not in httpx.get(guarded.url + path).text, path


def test_the_state_is_for_its_owner_alone(guarded: RunningRouter) -> None:
    assert (guarded.folder / "state").stat().st_mode & 0o077 == 0


def test_models_do_not_inherit_the_routers_keys(guarded: RunningRouter) -> None:
    guarded.chat("fake")
    env = child_environment(guarded)
    assert env["HF_TOKEN"] == "hf-recognisable"
    assert [name for name, value in env.items() if MARK in value and name != "HF_TOKEN"] == []
    assert not KEYS.keys() & env.keys()


def test_each_model_has_a_key_of_its_own_that_it_asks_for(guarded: RunningRouter) -> None:
    guarded.chat("fake")
    port = guarded.client.get("/v1/models/fake/status").json()["port"]
    for headers in ({}, {"authorization": f"Bearer {KEYS['API_KEY']}"}):
        assert httpx.get(f"http://127.0.0.1:{port}/props", headers=headers).status_code == 401


def test_no_field_of_a_request_reaches_a_command_line_an_environment_or_a_file(guarded: RunningRouter) -> None:
    evil = f"$(touch {guarded.folder}/pwned); --host 0.0.0.0 ../../{PROMPT}"
    guarded.chat("fake")
    before, env = arguments(guarded), child_environment(guarded)
    body = {"model": "fake", "n_gpu_layers": evil, "lora": evil, "flags": [evil], "user": evil, evil: evil}
    for model in ("fake", evil, "--help", "fake\0"):
        headers = {"user-agent": evil, "x-request-id": "--help", "x-request-priority": "low"}
        guarded.client.post("/v1/chat/completions", json=body | {"model": model, "messages": []}, headers=headers)
        guarded.client.post("/v1/models/load", json={"model": model}, headers=ADMIN)
    assert arguments(guarded) == before
    assert child_environment(guarded) == env
    assert not (guarded.folder / "pwned").exists()
    assert not [file for file in guarded.folder.rglob("*") if PROMPT in file.name]


def test_nothing_that_was_asked_or_answered_is_kept(guarded: RunningRouter) -> None:
    for fields in ({}, {"stream": True}, {"max_tokens": -5}, {"tools": "x"}):
        guarded.chat("fake", messages=[{"role": "user", "content": PROMPT}], **fields)
    guarded.client.post("/v1/chat/completions", content=json.dumps({"model": "fake", "messages": PROMPT})[:-1])
    guarded.client.post("/v1/completions", json={"model": "broken", "prompt": PROMPT})
    said = everything_said(guarded)
    assert {place for place, text in said.items() if PROMPT in text} == set()


def test_the_name_of_a_key_is_all_that_is_told_of_it(guarded: RunningRouter) -> None:
    guarded.chat("fake", headers={"authorization": "Bearer sk-recognisable-alice"})
    wait_until(lambda: " key=alice\n" in guarded.log, what="the line of the request")
    metrics = guarded.client.get("/metrics", headers={"x-api-key": KEYS["METRICS_TOKEN"]}).text
    assert 'router_key_requests_total{key="alice",status="success"} 1.0' in metrics
