"""Who may come in."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from tests.support.expect import expect_anthropic_error, expect_error
from tests.support.router import RunningRouter

REFUSED: dict[str, Mapping[bytes, bytes]] = {
    "missing": {},
    "wrong": {b"authorization": b"Bearer wrong"},
    "empty": {b"authorization": b"Bearer"},
    "part-of-it": {b"authorization": b"Bearer test-ke"},
    "more-than-it": {b"authorization": b"Bearer test-key-and-more"},
    "wrong-scheme": {b"authorization": b"Basic test-key"},
    "no-scheme": {b"authorization": b"test-key"},
    "unicode": {b"authorization": "Bearer schlüssel-模型".encode()},
    "not-utf8": {b"authorization": b"Bearer \xff\xfe"},
    "wrong-x-api-key": {b"x-api-key": b"wrong"},
    "metrics-token": {b"authorization": b"Bearer scrape-token"},
}


@pytest.mark.usefixtures("nothing_forwarded")
@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
def test_refused(running_router: RunningRouter, headers: Mapping[bytes, bytes]) -> None:
    url = f"{running_router.url}/v1/chat/completions"
    response = httpx.post(url, json={"model": "chat", "messages": []}, headers=list(headers.items()))
    error = expect_error(response, 401, code="invalid_api_key")
    assert "test-key" not in error["message"]


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}], ids=["missing", "wrong"])
def test_refused_in_anthropics_shape(running_router: RunningRouter, headers: Mapping[str, str]) -> None:
    response = httpx.post(f"{running_router.url}/v1/messages", json={"model": "chat"}, headers=headers)
    expect_anthropic_error(response, 401, "authentication_error")


ACCEPTED = {"bearer": {"authorization": "Bearer test-key"}, "x-api-key": {"x-api-key": "test-key"}}


@pytest.mark.parametrize("headers", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(running_router: RunningRouter, headers: Mapping[str, str]) -> None:
    assert httpx.get(f"{running_router.url}/v1/models", headers=headers).status_code == 200


def test_health_needs_no_key(running_router: RunningRouter) -> None:
    assert httpx.get(f"{running_router.url}/health").status_code == 200


def test_models_need_a_key(running_router: RunningRouter) -> None:
    expect_error(httpx.get(f"{running_router.url}/v1/models"), 401, code="invalid_api_key")
