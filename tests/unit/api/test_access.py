"""Who may come in."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config import ApiConfig
from tests.fakes.site import Site, site

KEY = "s3cret-ünï"
OPEN = ("/health", "/healthz")


async def status(found: Site, path: str, **headers: str) -> int:
    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return (await found.client.get(path, headers=told)).status_code


@pytest.mark.parametrize(
    "header", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bEaReR  {KEY}"}, {"x_api_key": KEY}]
)
async def test_the_key_opens(header: dict[str, str], tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        assert await status(found, "/v1/models", **header) == 200


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer"},
        {"x_api_key": ""},
        {"x_api_key": "模型"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/", "/docs", "/metrics"])
async def test_without_it_every_path_answers_alike(path: str, header: dict[str, str], tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        told = [(name.replace("_", "-").encode(), value.encode()) for name, value in header.items()]
        answer = await found.client.get(path, headers=told)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]
        assert KEY not in answer.text


async def test_what_is_remembered_of_the_key_opens_for_nothing_else(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        for _ in range(2):
            assert await status(found, "/v1/models", x_api_key=KEY) == 200
            assert await status(found, "/v1/models", authorization=f"Bearer {KEY}", x_api_key="wrong") == 200
            assert await status(found, "/v1/models", authorization=KEY) == 401
            assert await status(found, "/v1/models", x_api_key=f"Bearer {KEY}") == 401
            assert await status(found, "/v1/models", x_api_key="wrong") == 401
            assert await status(found, "/v1/models") == 401


async def test_health_is_open_and_nothing_that_merely_looks_like_it(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        for path in OPEN:
            assert await status(found, path) == 200
        assert await status(found, "/health/anything") == 404
        for path in ("/healthy", "/v1/health/models", "//health", "/HEALTH"):
            assert await status(found, path) == 401


async def test_anthropics_paths_refuse_in_its_own_words(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        answer = await found.client.post("/v1/messages", json={})
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_the_metrics_token_opens_the_routers_metrics_alone(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY, metrics_token="scrape") as found:
        assert await status(found, "/metrics", authorization="Bearer scrape") == 200
        assert await status(found, "/metrics", authorization=f"Bearer {KEY}") == 200
        assert await status(found, "/v1/models", authorization="Bearer scrape") == 401
        assert await status(found, "/metrics?model=chat", authorization="Bearer scrape") == 401


async def test_a_scraper_from_elsewhere_is_let_in_by_its_token(tmp_path: Path) -> None:
    async with site(tmp_path, metrics_token="scrape") as found:
        assert await status(found, "/metrics", host="router:8000") == 403
        assert await status(found, "/metrics", host="router:8000", authorization="Bearer scrape") == 200


async def test_a_ticket_opens_a_status_stream_once(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        ticket = found.services.tickets.issue()
        assert await status(found, f"/v1/models?ticket={ticket}") == 401
        path = f"/v1/models/status/stream?ticket={ticket}"
        async with found.client.stream("GET", path) as stream:
            assert stream.status_code == 200
        assert await status(found, path) == 401
        found.services.status.close()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"host": "localhost:9"},
        {"host": "127.8.8.8"},
        {"host": "[::1]:80"},
        {"origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
async def test_without_a_key_this_machine_is_served(header: dict[str, str], tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        assert await status(found, "/v1/models", **header) == 200


@pytest.mark.parametrize(
    "header",
    [
        {"host": "evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "[bad"},
        {"host": ""},
        {"host": "user@192.0.2.1"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"x_forwarded_for": "127.0.0.1"},
        {"x_forwarded_host": "localhost"},
        {"forwarded": "for=127.0.0.1"},
        {"x_real_ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
    ],
)
async def test_without_a_key_a_proxy_or_a_foreign_page_is_refused(header: dict[str, str], tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        answer = await found.client.get(
            "/v1/models", headers={key.replace("_", "-"): value for key, value in header.items()}
        )
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert error["code"] == "forbidden"
        assert "API_KEY" in error["message"]
        assert "api.allow_unauthenticated" in error["message"]
        assert await status(found, "/health", **header) == 200


async def test_the_opt_out_lets_everybody_in(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(allow_unauthenticated=True)) as found:
        assert await status(found, "/v1/models", host="router.example", x_forwarded_for="192.0.2.1") == 200


async def test_a_configured_origin_may_come_from_its_page(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(cors_origins=("https://ui.example",))) as found:
        assert await status(found, "/v1/models", origin="https://ui.example") == 200
        assert await status(found, "/v1/models", origin="https://other.example") == 403
