"""The ways to a particular child."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.api.app import create_app
from router.api.endpoints import ENDPOINTS
from router.config import ModelConfig, Settings
from tests.fakes.board import client_of
from tests.fakes.engine import FakeEngine, FakeModel
from tests.fakes.site import Site, services_for, site

GENERATING = [endpoint.path for endpoint in ENDPOINTS if endpoint.generates]


def counted(router: Site) -> int:
    return sum(
        len(found.records) for found in router.services.telemetry.recent.window(60, router.engine.clock()).values()
    )


@pytest.mark.parametrize("path", ["/props", "/slots", "/lora-adapters", "/metrics"])
async def test_a_control_path_goes_straight_to_a_ready_replica(path: str, router: Site) -> None:
    answer = await router.client.get(f"{path}?model=gpt-4o&verbose=1")
    assert (answer.status_code, answer.content) == (200, b'{"ok":true}')
    assert router.upstream.heard[-1].target == f"{path}?verbose=1"
    assert router.engine.granted == []


async def test_a_cold_model_is_loaded_for_it(router: Site) -> None:
    assert (await router.client.get("/props?model=cold")).status_code == 200
    assert [model for model, _ in router.engine.granted] == ["cold"]


@pytest.mark.parametrize(
    "path", ["/metrics?model=cold", "/slots?model=cold", "/upstream/cold/metrics", "/upstream/cold/slots"]
)
async def test_what_is_asked_again_and_again_loads_nothing(path: str, router: Site) -> None:
    answer = await router.client.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (503, "model_not_loaded", "model")
    assert "POST /v1/models/load" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert router.engine.granted == []
    assert router.engine.loaded == []


@pytest.mark.parametrize("path", ["/lora-adapters?model=chat", "/upstream/chat/lora-adapters"])
async def test_the_adapters_are_set_by_an_array_beside_what_runs(path: str, router: Site) -> None:
    body = b'[{"id":0,"scale":0.5}]'
    assert (await router.client.post(path, content=body)).status_code == 200
    heard = router.upstream.heard[-1]
    assert (heard.method, heard.target, heard.body) == ("POST", "/lora-adapters", body)
    assert router.engine.granted == []
    assert counted(router) == 0


@pytest.mark.parametrize(("query", "status"), [("", 400), ("?model=", 400), ("?model=nope", 404)])
async def test_a_control_path_needs_a_model(query: str, status: int, router: Site) -> None:
    answer = await router.client.get("/props" + query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, "model")


@pytest.mark.parametrize(
    ("path", "model", "target"),
    [
        ("chat/props", "chat", "/props"),
        ("gpt-4o/props", "chat", "/props"),
        ("org/m:q4/v1/models", "org/m:q4", "/v1/models"),
        ("org%2Fm:q4/v1/models", "org/m:q4", "/v1/models"),
        ("org/x/y", "org", "/x/y"),
        ("org", "org", "/"),
        ("ünï 模型/health", "ünï 模型", "/health"),
        ("chat/a%20b%3Fc", "chat", "/a%20b%3Fc"),
    ],
)
async def test_the_longest_alias_wins(path: str, model: str, target: str, router: Site) -> None:
    router.engine.models[model].status = router.engine.models["cold"].status  # a lease then tells which one was meant
    assert (await router.client.get(f"/upstream/{path}?a=1")).status_code == 200
    assert [name for name, _ in router.engine.granted] == [model]
    assert router.upstream.heard[-1].target == f"{target}?a=1"


async def test_what_generates_takes_a_slot(router: Site) -> None:
    answer = await router.client.post(
        "/upstream/chat/v1/chat/completions", content=b"{}", headers={"x-request-priority": "low"}
    )
    assert answer.status_code == 200
    assert [(model, priority.name) for model, priority in router.engine.granted] == [("chat", "LOW")]
    assert router.engine.finished == [True]
    assert counted(router) == 1


async def test_the_body_may_name_its_class_of_service(router: Site) -> None:
    body = b'{"service_tier":"priority"}'
    assert (await router.client.post("/upstream/chat/v1/chat/completions", content=body)).status_code == 200
    assert [(model, priority.name) for model, priority in router.engine.granted] == [("chat", "HIGH")]
    assert router.upstream.heard[-1].body == body


async def test_what_the_router_does_not_know_is_passed_on_unread(router: Site) -> None:
    assert (await router.client.post("/upstream/chat/v1/stream", content=b"\xff{")).status_code == 200
    assert router.upstream.heard[-1].body == b"\xff{"
    assert len(router.engine.granted) == 1


@pytest.mark.parametrize(
    "path", [*GENERATING, *(f"/upstream/embed{path}" for path in (*GENERATING, "/chat/completions"))]
)
async def test_a_model_that_only_embeds_is_not_asked_for_text(path: str, tmp_path: Path) -> None:
    file = tmp_path / "embed.gguf"
    file.write_bytes(b"GGUF")
    model = ModelConfig(model_path=file, flags=("--embedding",), env={})
    engine = FakeEngine(embed=FakeModel())
    app = create_app(services_for(Settings.build(models={"embed": model}, folder=tmp_path), engine))
    async with client_of(app) as client:
        answer = await client.post(path, json={"model": "embed"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (400, "false")
    assert "writes no text" in answer.json()["error"]["message"]
    assert engine.granted == []


async def test_errors_speak_the_dialect_of_the_childs_path(router: Site) -> None:
    router.upstream.script = lambda heard, wire: wire.answer(b'{"error":{"message":"no"}}', status="400 No")
    answer = await router.client.post("/upstream/chat/v1/messages", content=b"{}")
    assert answer.json()["type"] == "error"
    assert answer.headers["request-id"]


@pytest.mark.parametrize("path", ["nope/props", "%20chat/props"])
async def test_an_unknown_alias(path: str, router: Site) -> None:
    answer = await router.client.get(f"/upstream/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["slots/0?action=save", "slots/0", "%73lots/0?action=erase", "/slots/0?action=restore"]
)
async def test_slot_actions_need_a_key(path: str, router: Site, tmp_path: Path) -> None:
    answer = await router.client.post(f"/upstream/chat/{path}", content=b"{}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert router.upstream.heard == []
    async with site(tmp_path, api_key="key") as guarded:
        header = {"x-api-key": "key"}
        answer = await guarded.client.post(f"/upstream/chat/{path}", content=b"{}", headers=header)
        assert answer.status_code == 200
        assert "x-api-key" not in guarded.upstream.heard[-1].headers


async def test_a_path_does_not_climb(router: Site) -> None:
    told = b"GET /upstream/chat/a/%2e%2e/slots HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert (await router.address.say(told)).startswith(b"HTTP/1.1 404 ")
    assert router.upstream.heard == []


async def test_other_methods_are_not_passed_on(router: Site) -> None:
    answer = await router.client.delete("/upstream/chat/v1/stream")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_a_head_request_has_no_body(router: Site) -> None:
    router.upstream.script = lambda heard, wire: wire.say(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n")
    answer = await router.client.head("/upstream/chat/props")
    assert (answer.status_code, answer.content) == (200, b"")
    assert router.upstream.heard[-1].method == "HEAD"
