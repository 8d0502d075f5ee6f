"""Whom a request comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.api.forwarding import Proxies
from router.config import ApiConfig
from tests.fakes.site import site

PROXIES = Proxies(["10.0.0.0/8", "::1"])


def believed(client: str, *headers: tuple[str, str]) -> dict[str, Any]:
    scope = {
        "client": (client, 5),
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    PROXIES.believe(scope)
    return scope


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (("192.0.2.1",), "192.0.2.1"),
        (("6.6.6.6, 192.0.2.1",), "192.0.2.1"),
        (("6.6.6.6", "192.0.2.1, 10.9.9.9"), "192.0.2.1"),
        (("192.0.2.1:4711",), "192.0.2.1"),
        (("[2001:db8::1]:4711",), "2001:db8::1"),
        (("2001:DB8::1",), "2001:db8::1"),
        (("10.1.1.1, 10.2.2.2",), "10.1.1.1"),
        (("::ffff:192.0.2.1",), "192.0.2.1"),
        (("127.0.0.1",), "127.0.0.1"),
        ((), None),
        (("",), None),
        (("unknown",), None),
        (("127.0.0.1, evil\u00fc",), None),
        (("1" * 1000,), None),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(forwarded: tuple[str, ...], client: str | None) -> None:
    scope = believed("10.0.0.1", ("host", "x"), *(("x-forwarded-for", value) for value in forwarded))
    assert scope["client"] == (None if client is None else (client, 0))
    assert scope["headers"] == [(b"host", b"x")]


def test_a_stranger_is_not_believed() -> None:
    scope = believed("192.0.2.7", ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "https"))
    assert (scope["client"], scope["scheme"], len(scope["headers"])) == (("192.0.2.7", 5), "http", 2)


@pytest.mark.parametrize(("said", "scheme"), [("https", "https"), ("HTTPS ", "https"), ("javascript", "http")])
def test_the_scheme(said: str, scheme: str) -> None:
    assert believed("::1", ("x-forwarded-proto", said))["scheme"] == scheme


@pytest.mark.parametrize(
    ("proxies", "forwarded", "status"),
    [
        ((), None, 200),
        ((), "127.0.0.1", 403),
        (("127.0.0.1",), "127.0.0.1", 200),
        (("127.0.0.1",), "192.0.2.1", 403),
        (("127.0.0.1",), "127.0.0.1, 192.0.2.1", 403),
        (("127.0.0.1",), None, 403),
    ],
)
async def test_only_this_machine_is_let_in_without_a_key(
    proxies: tuple[str, ...], forwarded: str | None, status: int, tmp_path: Path
) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    async with site(tmp_path, api=ApiConfig(forwarded_allow_ips=proxies)) as router:
        assert (await router.client.get("/v1/models", headers=headers)).status_code == status


async def test_the_access_log_names_the_client(tmp_path: Path) -> None:
    async with site(tmp_path, api=ApiConfig(forwarded_allow_ips=("127.0.0.1",))) as router:
        await router.client.get("/health", headers={"x-forwarded-for": "192.0.2.1"})
        await router.client.get("/health")
        first, second = router.access_lines()
    assert first.startswith("client=192.0.2.1 ")
    assert second.startswith("client=- ")
