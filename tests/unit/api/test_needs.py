"""Every route of the app has a decision about who may call it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from router.api import needs
from router.api.app import create_api
from router.api.endpoints import CHILD_METRICS, ENDPOINTS
from router.api.needs import ADMIN, KEY, NEEDS, OPEN, Level, need_of, need_of_child
from router.api.routes.inference import direct
from router.api.routing import Routing, path_of
from tests.fakes.site import Site, site

ROUTES = (APIRoute, Route)  # mounts and nested routers would hide routes of their own


@pytest.fixture
async def api(router: Site) -> FastAPI:
    return create_api(router.services)


def calls(route: BaseRoute) -> set[tuple[str, str]]:
    """Method and path of everything that one route answers."""
    assert isinstance(route, ROUTES), f"{route} is neither of {ROUTES}: what is in it was not looked at"
    assert route.methods
    return {(method, route.path) for method in route.methods}


def undecided(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {
        (method, path)
        for method, path in found
        if path not in NEEDS and f"{'GET' if method == 'HEAD' else method} {path}" not in NEEDS
    }


async def test_every_route_has_a_decision(api: FastAPI, router: Site) -> None:
    found = set[tuple[str, str]]().union(*map(calls, api.router.routes)) | direct(router.services).keys()
    assert len(found) > 50
    assert undecided(found) == set(), "say in router.api.needs who may call these"


async def test_no_decision_is_about_a_route_that_there_is_not(api: FastAPI) -> None:
    there = {path_of(route) for route in api.router.routes}
    assert {name.rpartition(" ")[2] for name in NEEDS} <= there


async def test_a_new_route_is_closed_until_there_is_one(api: FastAPI, tmp_path: Path) -> None:
    @api.get("/new")
    async def new() -> None: ...

    assert undecided(calls(api.router.routes[-1])) == {("GET", "/new")}
    async with site(tmp_path) as found:
        scope = {"type": "http", "method": "GET", "path": "/new", "headers": [], "path_params": {}}
        assert Routing(api, found.services)(scope)[1] is ADMIN


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/health", OPEN),
        ("HEAD", "/healthz", OPEN),
        ("POST", "/health", KEY),  # there is no such route, which is for keys to know
        ("GET", "/nowhere", KEY),
        ("GET", "/v1/models/load", KEY),
        ("POST", "/v1/models/load", ADMIN),
        ("POST", "/v1/models/a/b:c/reset", ADMIN),
        ("POST", "/v1/chat/completions", KEY),
        ("GET", "/lora-adapters", KEY),
        ("HEAD", "/lora-adapters", KEY),
        ("POST", "/lora-adapters", ADMIN),
    ],
)
async def test_the_need_is_that_of_the_matched_route(method: str, path: str, need: object, router: Site) -> None:
    scope = {"type": "http", "method": method, "path": path, "headers": [], "path_params": {}}
    assert Routing(create_api(router.services), router.services)(scope)[1] is need


def test_below_upstream_a_call_needs_what_it_needs_elsewhere() -> None:
    for endpoint in (*ENDPOINTS, CHILD_METRICS):
        for method in endpoint.methods:
            level = need_of(method, endpoint.path).level
            assert need_of_child(method, endpoint.path).level is level
            assert need_of_child(method, endpoint.path.removeprefix("/v1")).level is level


@pytest.mark.parametrize(
    "path", ["", "/", "//slots", "/slots/", "/slots/0", "/new", "/v1/slots", "/Slots", "/models/x"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_what_is_known_nowhere_needs_the_admin_key(method: str, path: str) -> None:
    assert need_of_child(method, path).level is Level.ADMIN


def test_a_token_is_for_the_routers_metrics_alone() -> None:
    assert {path for path, need in NEEDS.items() if need.token} == {"/metrics", "/metrics/stream"}
    assert not need_of_child("GET", "/metrics").token


def test_the_table_is_written_once() -> None:
    source = inspect.getsource(needs)
    assert all(source.count(f'"{name}":') == 1 for name in NEEDS)
