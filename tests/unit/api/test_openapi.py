"""The OpenAPI page tells the truth."""

from __future__ import annotations

import pytest

from router.api.endpoints import ENDPOINTS
from tests.fakes.site import Site


async def test_every_relayed_path_is_described(router: Site) -> None:
    page = (await router.client.get("/openapi.json")).json()
    for endpoint in ENDPOINTS:
        for method in endpoint.methods:
            operation = page["paths"][endpoint.path][method.lower()]
            assert {"400", "401", "429", "503"} <= operation["responses"].keys()
            assert any(parameter["name"] == "X-Request-Priority" for parameter in operation["parameters"])


async def test_every_path_on_the_page_exists(router: Site) -> None:
    page = (await router.client.get("/openapi.json")).json()
    for path, operations in page["paths"].items():
        answer = await router.client.request("TRACE", path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405, path
        assert operations


async def test_keys_and_errors_are_as_they_are(router: Site) -> None:
    page = (await router.client.get("/openapi.json")).json()
    assert set(page["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    told = str(page["paths"])
    assert "HTTPValidationError" not in told
    assert "'422'" not in told


async def test_operation_ids_are_unique(router: Site) -> None:
    page = (await router.client.get("/openapi.json")).json()
    ids = [operation["operationId"] for operations in page["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
async def test_the_page_is_there(path: str, router: Site) -> None:
    assert (await router.client.get(path)).status_code == 200
