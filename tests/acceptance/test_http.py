"""Headers, methods, paths and origins."""

from __future__ import annotations

import httpx
import pytest

from tests.support.expect import expect_error
from tests.support.router import RunningRouter
from tests.support.wire import Wire

ORIGIN = "https://app.example"
BODY = b'{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}'


@pytest.mark.usefixtures("nothing_forwarded")
def test_20_kb_header(running_router: RunningRouter) -> None:
    response = running_router.chat("chat", headers={"x-long": "x" * 20 * 1024})
    expect_error(response, 400, 413, 431)


def test_header_longer_than_the_child_takes(running_router: RunningRouter) -> None:
    assert running_router.chat("chat", headers={"x-long": "x" * 9 * 1024}).status_code == 200


@pytest.mark.usefixtures("nothing_forwarded")
def test_length_and_transfer_encoding(running_router: RunningRouter) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with Wire(running_router.url) as wire:
        wire.send(head % len(BODY) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        expect_error(wire.answer(), 400)
        assert wire.closed()


def test_trailing_slash_get(running_router: RunningRouter) -> None:
    response = running_router.client.get("/v1/models/")
    assert response.status_code == 200
    assert response.json() == running_router.client.get("/v1/models").json()


def test_trailing_slash_post(running_router: RunningRouter) -> None:
    response = running_router.client.post("/v1/chat/completions/", content=BODY)
    assert response.status_code == 200
    assert response.json()["object"] == "chat.completion"


POST_ROUTES = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/tokenize",
    "/v1/audio/transcriptions", "/v1/models/eject", "/v1/models/load", "/v1/models/chat/reset",
)  # fmt: skip


@pytest.mark.parametrize("path", POST_ROUTES)
def test_get_on_a_post_route(running_router: RunningRouter, path: str) -> None:
    response = running_router.client.get(path)
    expect_error(response, 405, code="method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_post_on_a_get_route(running_router: RunningRouter) -> None:
    response = running_router.client.post("/v1/models", json={})
    expect_error(response, 405)
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/nothing", "/v1/chat", "/v2/chat/completions"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path(running_router: RunningRouter, method: str, path: str) -> None:
    expect_error(running_router.client.request(method, path), 404, code="unknown_url")


@pytest.mark.parametrize("path", ["/", "/v1/models"])
def test_head(running_router: RunningRouter, path: str) -> None:
    response = running_router.client.head(path)
    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["x-request-id"]


def test_head_keeps_the_connection_usable(running_router: RunningRouter) -> None:
    with Wire(running_router.url) as wire:
        lines = b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n\r\n"
        wire.send(lines + lines.replace(b"HEAD", b"GET"))
        # Were there a byte of body, the second response would not begin where the first head ends.
        wire_bytes = b""
        while wire_bytes.count(b"HTTP/1.1 200") < 2:
            wire_bytes += wire.read()
    head, _, rest = wire_bytes.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest.startswith(b"HTTP/1.1 200")


def preflight(router: RunningRouter, origin: str, requested: str = "authorization") -> httpx.Response:
    return httpx.options(
        f"{router.url}/v1/chat/completions",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": requested,
        },
    )


def test_cors_preflight(running_router: RunningRouter) -> None:
    requested = "authorization,content-type,x-stainless-lang,x-request-priority"
    response = preflight(running_router, ORIGIN, requested)
    assert response.is_success, response.text
    assert response.headers["access-control-allow-origin"] in (ORIGIN, "*")
    allowed = {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}
    assert set(requested.split(",")) <= allowed
    assert "POST" in response.headers["access-control-allow-methods"]


def test_cors_preflight_of_a_stranger(running_router: RunningRouter) -> None:
    assert "access-control-allow-origin" not in preflight(running_router, "https://stranger.example").headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_one_allowed_origin_on_a_proxied_reply(running_router: RunningRouter, stream: bool) -> None:
    response = running_router.chat("chat", headers={"origin": ORIGIN}, stream=stream)
    assert response.status_code == 200
    assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]
    exposed = {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}
    assert exposed == {"x-request-id", "request-id", "retry-after", "x-should-retry", "x-error-source"}


def test_one_allowed_origin_on_an_error(running_router: RunningRouter) -> None:
    response = running_router.chat("nope", headers={"origin": ORIGIN})
    expect_error(response, 404)
    assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]


def test_one_allowed_origin_on_headers_too_large(running_router: RunningRouter) -> None:
    response = running_router.chat("chat", headers={"origin": ORIGIN, "x-long": "x" * 20 * 1024})
    expect_error(response, 431)
    assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]


def test_no_allowed_origin_without_an_origin(running_router: RunningRouter) -> None:
    response = running_router.chat("chat")
    assert response.headers.get_list("access-control-allow-origin") in ([], [ORIGIN])
    assert "" not in response.headers.get_list("access-control-allow-origin")
