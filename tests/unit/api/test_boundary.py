"""What is true of every request: an id, a log line, an error in one shape, and CORS."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from router.api.app import create_app
from router.config import ApiConfig
from tests.fakes.engine import FakeEngine, FakeModel
from tests.fakes.serving import served
from tests.fakes.site import MODELS, Site, services_for, settings_for, site

ORIGIN = "https://ui.example"


@pytest.mark.parametrize("told", ["abc-123", "x" * 128])
async def test_a_sane_id_is_kept(told: str, router: Site) -> None:
    assert (await router.client.get("/", headers={"x-request-id": told})).headers["x-request-id"] == told


@pytest.mark.parametrize("told", ["", "x" * 129, "a b", "ü"])
async def test_an_odd_one_is_replaced(told: str, router: Site) -> None:
    answer = await router.client.get("/", headers=[(b"x-request-id", told.encode())])
    assert answer.headers.get_list("x-request-id") != [told]
    assert len(answer.headers["x-request-id"]) == 32


async def test_an_answer_of_the_child_carries_one_id(router: Site) -> None:
    router.upstream.script = lambda heard, wire: wire.answer(b"{}", more="x-request-id: childs\r\n")
    answer = await router.chat(x_request_id="ours")
    assert answer.headers.get_list("x-request-id") == ["ours"]


async def test_an_unknown_path(router: Site) -> None:
    answer = await router.client.get("/v1/nope")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "Unknown request URL: GET /v1/nope. The known ones are at /docs.",
        "type": "invalid_request_error",
        "param": None,
        "code": "unknown_url",
    }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/metrics", "GET"),
        ("PUT", "/v1/models/chat/reset", "POST"),
        ("PUT", "/v1/models/chat", "GET"),
        ("PUT", "/lora-adapters", "GET, HEAD, POST"),
    ],
)
async def test_a_wrong_method(method: str, path: str, allow: str, router: Site) -> None:
    answer = await router.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


async def test_a_trailing_slash_makes_no_difference(router: Site) -> None:
    answer = await router.client.post("/v1/chat/completions/", content=b'{"model":"chat"}')
    assert answer.status_code == 200
    assert router.upstream.heard[-1].target == "/v1/chat/completions"


async def test_large_headers_stay_here(router: Site) -> None:
    answer = await router.chat(x_large="a" * 20_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")
    assert router.upstream.heard == []


@pytest.mark.parametrize("before", ["/", "/v1/models?"])
async def test_a_large_address_is_a_large_header(before: str, router: Site) -> None:
    answer = await router.client.get(f"{before}{'a' * 20_000}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")


async def test_a_long_path_has_its_dialect_and_a_short_line(router: Site) -> None:
    answer = await router.client.get(f"/v1/messages/{'a' * 9_000}")
    assert (answer.status_code, answer.json()["type"]) == (404, "error")
    (line,) = router.access_lines()
    assert 'path="/v1/messages/aaa' in line
    assert len(line) < 500


async def test_large_headers_do_not_hide_behind_another_request(router: Site) -> None:
    small, large = b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"connection: close\r\nx-large: " + b"a" * 20_000
    answers = await router.address.say(small + b"\r\n" + small + large + b"\r\n\r\n")
    assert answers.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 431" in answers


async def test_a_bug_is_told_without_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeEngine):
        @property
        def names(self) -> tuple[str, ...]:
            raise ZeroDivisionError("secret")

    engine = Broken(**{name: FakeModel() for name in MODELS})
    app = create_app(services_for(settings_for(tmp_path), engine))
    async with served(app) as address, httpx.AsyncClient(base_url=address.url) as client:
        answer = await client.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert "ZeroDivisionError" in caplog.text


async def test_each_request_is_one_line(router: Site) -> None:
    await router.client.post(
        "/v1/chat/completions?key=secret", content=b'{"model":"gpt-4o"}', headers={"x-request-id": "7"}
    )
    await router.client.get("/a%0Ab%1b[31m")
    first, second = router.access_lines()
    assert first.startswith("client=127.0.0.1 method=POST path=/v1/chat/completions status=200 ms=")
    assert first.endswith(" model=chat bytes=11 id=7 key=-")
    assert "secret" not in first
    assert 'path="/a\\nb\\u001b[31m" status=404' in second


async def test_without_configured_origins_cors_is_off(tmp_path: Path) -> None:
    async with site(tmp_path, api_key="key") as router:
        asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
        answer = await router.client.options("/v1/chat/completions", headers=asked)
        assert answer.status_code == 401
        served = await router.chat(origin=ORIGIN, x_api_key="key")
        assert served.status_code == 200
        assert not [name for name in (*answer.headers, *served.headers) if name.startswith("access-control-")]


async def test_a_preflight_needs_no_key(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(cors_origins=(ORIGIN,)), api_key="key") as router:
        asked = {
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,x-stainless-os",
        }
        answer = await router.client.options("/v1/chat/completions", headers=asked)
        assert answer.is_success
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
        foreign = await router.client.options(
            "/v1/chat/completions", headers=asked | {"origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in foreign.headers


async def test_a_proxied_answer_allows_one_origin_and_shows_its_headers(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(cors_origins=(ORIGIN,)), api_key="key") as router:
        router.upstream.script = lambda heard, wire: wire.answer(b"{}", more="Access-Control-Allow-Origin: \r\n")
        answer = await router.chat(origin=ORIGIN, x_api_key="key")
        assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
        exposed = answer.headers["access-control-expose-headers"]
        assert exposed.split(", ") == ["x-request-id", "request-id", "retry-after", "x-should-retry", "x-error-source"]
        refused = await router.chat(origin=ORIGIN)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


async def test_errors_made_outermost_are_readable_for_the_page(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        @property
        def names(self) -> tuple[str, ...]:
            raise ZeroDivisionError

    services = services_for(
        settings_for(tmp_path, api=ApiConfig(cors_origins=(ORIGIN,))), Broken(**{name: FakeModel() for name in MODELS})
    )
    async with served(create_app(services)) as address, httpx.AsyncClient(base_url=address.url) as client:
        for status, headers in ((431, {"x-large": "a" * 20_000}), (500, {})):
            answer = await client.get("/v1/models", headers={"origin": ORIGIN, **headers})
            assert answer.status_code == status
            assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
            assert len(answer.headers.get_list("x-request-id")) == 1
            assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_preflight_has_an_id_and_a_line(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(cors_origins=(ORIGIN,))) as router:
        asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
        answer = await router.client.options("/v1/chat/completions", headers=asked)
    (line,) = router.access_lines()
    assert answer.headers["x-request-id"] in line


async def test_without_origins_none_is_allowed(router: Site) -> None:
    router.upstream.script = lambda heard, wire: wire.answer(b"{}", more="Access-Control-Allow-Origin: *\r\n")
    answer = await router.chat(origin="http://localhost:3000")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "path", "reason"),
    [
        ({}, "/v1/models", "no_key"),
        ({"authorization": "Bearer wrong"}, "/v1/models", "wrong_key"),
        ({"x-api-key": "wrong"}, "/nowhere", "wrong_key"),
        ({"x-api-key": "of-a-client"}, "/v1/health/models", "forbidden"),
        ({"x-api-key": "of-a-client"}, "/upstream/chat/slots", "forbidden"),
        ({"x-filler": "x" * 20_000}, "/v1/models", "head_size"),
    ],
)
async def test_whoever_is_refused_is_counted(headers: dict[str, str], path: str, reason: str, tmp_path: Path) -> None:
    async with site(tmp_path, api_key="of-a-client", admin_key="of-the-admin") as found:
        refused = found.services.telemetry.connections.refused
        for expected in (1, 2):
            assert (await found.client.get(path, headers=headers)).status_code in {401, 403, 431}
            assert {name: count for name, count in refused.items() if count} == {reason: expected}
        assert f'router_refusals_total{{reason="{reason}"}} 2.0' in found.metrics()
        await found.client.get("/v1/models", headers={"x-api-key": "of-a-client"})
        await found.client.get("/v1/nope", headers={"x-api-key": "of-a-client"})
        assert sum(refused.values()) == 2


async def test_what_a_model_refuses_is_none_of_it(router: Site) -> None:
    router.upstream.script = lambda heard, wire: wire.answer(b"{}", status="403 Forbidden")
    assert (await router.chat()).status_code == 403
    assert sum(router.services.telemetry.connections.refused.values()) == 0


async def test_strangers_and_large_bodies_are_counted_too(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(max_body_mb=1)) as found:
        await found.client.get("/v1/models", headers={"host": "evil.example"})
        await found.chat(b" " * (1024 * 1024 + 1))
        counts = found.services.telemetry.connections.refused
        assert {name: count for name, count in counts.items() if count} == {"stranger": 1, "body_size": 1}
