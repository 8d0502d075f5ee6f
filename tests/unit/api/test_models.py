"""The list of models, and what answers at the root."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.serving import eventually
from tests.fakes.site import MODELS, Site


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/"])
async def test_all_are_listed_in_order(path: str, router: Site) -> None:
    answer = await router.client.get(path)
    assert answer.status_code == 200
    found = answer.json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == list(MODELS)
    first = found["data"][0]
    assert first.pop("created") > 1_700_000_000
    assert set(first.pop("memory")) == {"gpu_bytes", "host_bytes", "reserve_bytes", "source"}
    assert first == {
        "id": "chat",
        "object": "model",
        "owned_by": "llama-router",
        "aliases": ["gpt-4o"],
        "status": "ready",
        "replicas": 0,
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("chat", "chat"),
        ("gpt-4o", "chat"),
        ("org%2Fm:q4", "org/m:q4"),
        ("org/m:q4", "org/m:q4"),
        ("org%2Fm%3Aq4", "org/m:q4"),
        ("ünï 模型", "ünï 模型"),
    ],
)
async def test_one_is_found_by_any_of_its_names(path: str, name: str, router: Site) -> None:
    answer = await router.client.get(f"/v1/models/{path}")
    assert (answer.status_code, answer.json()["id"]) == (200, name)


async def test_an_unknown_one_is_not_found(router: Site) -> None:
    answer = await router.client.get("/v1/models/nope")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_the_routers_own_paths_are_no_models(router: Site) -> None:
    assert "summary" in (await router.client.get("/v1/models/status")).json()
    assert (await router.client.get("/v1/models/failed")).status_code == 200
    assert (await router.client.get("/v1/models/org/m:q4/status")).status_code == 200


async def test_the_list_does_not_wait_for_a_load(router: Site) -> None:
    router.engine.models["chat"].open.clear()
    waiting = asyncio.create_task(router.chat())
    await eventually(lambda: router.engine.waiting == 1)
    async with asyncio.timeout(1):
        assert (await router.client.get("/v1/models")).status_code == 200
    router.engine.models["chat"].open.set()
    await waiting


@pytest.mark.parametrize("path", ["/", "/v1/models", "/models"])
async def test_head(path: str, router: Site) -> None:
    answer = await router.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_the_root_says_what_this_is(router: Site) -> None:
    assert (await router.client.get("/")).json()["name"] == "llama-router"
