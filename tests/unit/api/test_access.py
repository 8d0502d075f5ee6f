"""Who may come in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.types import Scope

from router.api.strangers import Strangers
from router.config import ApiConfig
from router.core.types import Status
from tests.fakes.site import Site, site

KEY = "s3cret-ünï"
OPEN = ("/health", "/healthz", "/health/", "/docs", "/openapi.json")


def from_afar(**headers: str) -> Scope:
    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": ("192.0.2.9", 1), "headers": told}


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
@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/", "/v1/models/eject", "/metrics"])
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
        for path in ("/health/anything", "/healthy", "/v1/health/models", "//health", "/HEALTH"):
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
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "navigate"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors", "origin": "http://localhost:3000"},
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
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
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


@pytest.mark.parametrize(
    ("host", "allowed", "welcome"),
    [
        ("192.0.2.7:8000", (), True),
        ("[2001:db8::1]", (), True),
        ("router:8000", (), True),
        ("gpu.local", (), True),
        ("host.docker.internal:8000", (), True),
        ("evil.example", (), False),
        ("evil.example.", (), False),
        ("", (), False),
        ("router.example", ("router.example",), True),
        ("Router.Example.:8000", ("router.example",), True),
        ("a.router.example", ("*.router.example",), True),
        ("router.example", ("*.router.example",), False),
        ("evil-router.example", ("*.router.example", "router.example"), False),
        ("evil.example", ("*",), True),
    ],
)
def test_the_opt_out_lets_in_whoever_calls_the_router_by_a_name_of_its_own(
    host: str, allowed: tuple[str, ...], welcome: bool
) -> None:
    rules = Strangers(ApiConfig(allow_unauthenticated=True, allowed_hosts=allowed))
    assert rules.may_enter(from_afar(host=host, **{"x-forwarded-for": "192.0.2.1"})) == welcome


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("llm.router.example", False),  # there may be an evil.router.example
        ("gpu.corp.internal", False),
        ("router:8000", True),
        ("localhost:8000", True),
        ("192.0.2.7:8000", True),
        ("[2001:db8::1]:8000", True),
    ],
)
def test_a_neighbours_page_is_a_page_of_others(host: str, welcome: bool) -> None:
    """What says no `Origin` and comes from the same site comes from the host itself only where that is the site."""
    rules = Strangers(ApiConfig(allow_unauthenticated=True, allowed_hosts=("llm.router.example",)))
    assert rules.may_enter(from_afar(host=host, **{"sec-fetch-site": "same-site"})) is welcome
    own = {"sec-fetch-site": "same-site", "origin": f"http://{host.partition(':8000')[0]}:3000"}
    assert rules.may_enter(from_afar(host=host, **own))  # a page beside it that reads what it asks for
    for said in ("same-origin", "none"):
        assert rules.may_enter(from_afar(host=host, **{"sec-fetch-site": said}))


@pytest.mark.parametrize(
    ("origin", "origins", "welcome"),
    [
        ("http://192.0.2.7:8000", (), True),
        ("http://localhost:3000", (), True),
        ("https://evil.example", (), False),
        ("null", (), False),
        ("https://ui.example", ("https://ui.example",), True),
        ("https://evil.example", ("*",), True),
    ],
)
def test_the_opt_out_lets_in_no_page_of_others(origin: str, origins: tuple[str, ...], welcome: bool) -> None:
    rules = Strangers(ApiConfig(allow_unauthenticated=True, cors_origins=origins))
    assert rules.may_enter(from_afar(host="192.0.2.7:8000", origin=origin)) == welcome


async def test_the_opt_out_holds_for_the_whole_router(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(allow_unauthenticated=True, allowed_hosts=("a.example",))) as found:
        assert await status(found, "/v1/models", host="a.example", x_forwarded_for="192.0.2.1") == 200
        assert await status(found, "/v1/models", host="b.example") == 403
        assert await status(found, "/v1/models", host="a.example", origin="https://b.example") == 403


async def test_a_further_name_of_this_machine(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(allowed_hosts=("llm.test",))) as found:
        assert await status(found, "/v1/models", host="llm.test:8000", origin="http://llm.test:8000") == 200
        assert await status(found, "/v1/models", host="other.test") == 403


NAMED = ApiConfig.model_validate(
    {"api_keys": {"alice": "alices-own-key", "batch": f"sha256:{hashlib.sha256(b'key-of-batch').hexdigest()}"}}
)


@pytest.mark.parametrize(("key", "name"), [("alices-own-key", "alice"), ("key-of-batch", "batch")])
async def test_each_key_is_known_by_its_name(key: str, name: str, tmp_path: Path) -> None:
    async with site(tmp_path, api=NAMED) as found:
        assert (await found.chat(x_api_key=key)).status_code == 200
        (line,) = found.access_lines()
        assert line.endswith(f" key={name}")
        assert f'router_key_requests_total{{key="{name}",status="success"}} 1.0' in found.metrics()
        assert key not in line + found.metrics()


async def test_the_text_of_a_digest_is_no_key(tmp_path: Path) -> None:
    async with site(tmp_path, api=NAMED) as found:
        written = "sha256:" + hashlib.sha256(b"key-of-batch").hexdigest()
        assert (await found.chat(x_api_key=written)).status_code == 401


MANAGING = [
    ("POST", "/v1/models/load"),
    ("POST", "/v1/models/eject/"),
    ("POST", "/v1/models/chat/reset"),
    ("GET", "/v1/health/models"),
    ("GET", "/slots?model=chat"),
    ("HEAD", "/slots?model=chat"),
    ("POST", "/lora-adapters?model=chat"),
    ("POST", "/v1/models%2Feject"),
    ("POST", "/v1/%6dodels/load"),
    ("GET", "/upstream/chat/slots"),
    ("GET", "/upstream/chat/"),
    ("GET", "/upstream/org%2Fm:q4/slots"),
    ("POST", "/upstream/chat/slots/0?action=erase"),
    ("POST", "/upstream/chat//slots/0?action=erase"),
    ("POST", "/upstream/chat/props"),
    ("POST", "/upstream/chat/lora-adapters"),
    ("POST", "/upstream/chat/v1/anything-new"),
]
ASKING = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/status"),
    ("GET", "/props?model=chat"),
    ("GET", "/lora-adapters?model=chat"),
    ("GET", "/upstream/chat/props"),
    ("GET", "/upstream/chat/v1/models"),
    ("GET", "/upstream/chat/metrics"),
    ("POST", "/upstream/chat/v1/chat/completions"),
    ("POST", "/upstream/chat/chat/completions"),
]
BODY = b'{"model":"chat"}'


async def test_with_an_admin_key_others_do_not_manage(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY, admin_key="key-of-the-admin") as found:
        for method, path in MANAGING:
            refused = await found.client.request(method, path, content=BODY, headers=[(b"x-api-key", KEY.encode())])
            assert refused.status_code == 403, path
            if method != "HEAD":
                assert refused.json()["error"]["code"] == "forbidden"
                assert "ADMIN_API_KEY" in refused.text
            assert (await found.client.request(method, path, content=BODY)).status_code == 401, path
        assert found.upstream.heard == []
        assert (found.engine.loaded, found.engine.ejected, found.engine.resets) == ([], [], [])
        for method, path in MANAGING:
            found.engine.models["chat"].status = Status.READY
            answer = await found.client.request(method, path, content=BODY, headers={"x-api-key": "key-of-the-admin"})
            assert answer.is_success, path


async def test_with_an_admin_key_everybody_asks(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY, admin_key="key-of-the-admin") as found:
        for method, path in ASKING:
            for key in (KEY, "key-of-the-admin"):
                answer = await found.client.request(method, path, content=BODY, headers=[(b"x-api-key", key.encode())])
                assert answer.status_code == 200, path


async def test_an_admin_key_alone_leaves_this_machine_to_ask(tmp_path: Path) -> None:
    async with site(tmp_path, admin_key="key-of-the-admin") as found:
        assert (await found.chat()).status_code == 200
        answer = await found.client.post("/v1/models/eject", content=BODY)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert await status(found, "/v1/models", host="evil.example", x_api_key="key-of-the-admin") == 200


TRICKS = [
    b"POST http://localhost/v1/models/eject HTTP/1.1",
    b"POST //v1/models/eject HTTP/1.1",
    b"POST /v1/./models/eject HTTP/1.1",
    b"POST /health/../v1/models/eject HTTP/1.1",
    b"POST /v1/models/eject/.. HTTP/1.1",
    b"POST /v1/models/eject/// HTTP/1.1",
    b"POST /v1/models/eject?ticket=x HTTP/1.1",
    b"POST /v1/models/eject%00 HTTP/1.1",
    b"POST /V1/MODELS/EJECT HTTP/1.1",
    b"POST /docs/../v1/models/eject HTTP/1.1",
    b"POST /health%2f..%2fv1%2fmodels%2feject HTTP/1.1",
    b"GET /v1/models/eject HTTP/1.1\r\nx-http-method-override: POST",
    b"GET /health?_method=POST&path=/v1/models/eject HTTP/1.1\r\nx-original-url: /v1/models/eject",
    b"GET /health HTTP/1.1\r\nx-rewrite-url: /v1/models/eject",
    b"OPTIONS /v1/models/eject HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"HEAD /v1/models/eject HTTP/1.1",
    b"CONNECT localhost:80 HTTP/1.1",
]


async def test_no_spelling_of_a_path_slips_past(tmp_path: Path) -> None:
    rest = b"\r\nhost: localhost\r\ncontent-length: %d\r\nconnection: close\r\n" % len(BODY)
    async with site(tmp_path, api_key=KEY, admin_key="key-of-the-admin") as found:
        for first in TRICKS:
            for key in (b"", b"authorization: Bearer " + KEY.encode() + b"\r\n"):
                answer = await found.address.say(first + rest + key + b"\r\n" + BODY)
                harmless = first.startswith(b"GET /health")
                assert answer[9:12] in ((b"200",) if harmless else (b"400", b"401", b"403", b"404", b"405")), first
        assert found.engine.ejected == []


NO_KEYS = [
    [("authorization", "Bearer wrong"), ("authorization", "Bearer also-wrong")],
    [("authorization", f"Bearer wrong, Bearer {KEY}")],
    [("authorization", f"Bearer wrong {KEY}")],
    [("authorization", f"Bearer\t{KEY}")],
    [("authorization", "Bearer " + "k" * 10_000)],
    [("authorization", "\x80\xff")],
    [("authorization", f'Digest username="{KEY}"')],
    [("x-api-key", "sha256:"), ("authorization", "")],
    [("cookie", f"api_key={KEY}"), ("proxy-authorization", f"Bearer {KEY}")],
]


async def test_whatever_is_no_key_gets_the_same_401(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        plain = await found.client.get(f"/v1/models?api_key={quote(KEY)}")
        for headers in NO_KEYS:
            told = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
            answer = await found.client.get("/v1/models", headers=told)
            assert (answer.status_code, answer.text) == (401, plain.text), headers


@pytest.mark.parametrize("order", [1, -1])
async def test_the_admin_key_counts_wherever_it_stands(order: int, tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY, admin_key="key-of-the-admin") as found:
        told = [(b"authorization", b"Bearer " + KEY.encode()), (b"x-api-key", b"key-of-the-admin")][::order]
        assert (await found.client.post("/v1/models/load", content=BODY, headers=told)).is_success


async def test_one_good_key_among_several_is_enough(tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as found:
        told = [(b"authorization", b"Bearer anything"), (b"x-api-key", KEY.encode())]
        assert (await found.client.get("/v1/models", headers=told)).status_code == 200


async def test_a_configured_origin_may_come_from_its_page(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(cors_origins=("https://ui.example",))) as found:
        assert await status(found, "/v1/models", origin="https://ui.example") == 200
        assert await status(found, "/v1/models", origin="https://other.example") == 403
