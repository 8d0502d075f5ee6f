"""The OpenAPI page tells the truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.api.endpoints import ENDPOINTS, Claim
from tests.fakes.site import Site, site

KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"x-api-key": []}]
ANYTHING = "/upstream/{alias}/{path}"


@pytest.fixture
async def page(router: Site) -> dict[str, Any]:
    found: dict[str, Any] = (await router.client.get("/openapi.json")).json()
    return found


def operations(page: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation."""
    for path, found in page["paths"].items():
        for method, operation in found.items():
            yield method.upper(), path, operation


def error_schemas(operation: dict[str, Any]) -> set[str]:
    """How each error that is not the model's has its shape described."""
    return {
        str(answer["content"]["application/json"]["schema"])
        for status, answer in operation["responses"].items()
        if status not in {"200", "202"}
    }


async def test_every_relayed_path_is_described(page: dict[str, Any]) -> None:
    for endpoint in ENDPOINTS:
        for method in endpoint.methods:
            operation = page["paths"][endpoint.path][method.lower()]
            expected = {"400", "401", "403", "404", "408", "413", "415", "431", "500", "502", "503"}
            queues = endpoint.claim is not Claim.NOTHING
            assert expected | ({"429", "504"} if queues else set()) == operation["responses"].keys() - {
                "200",
                "default",
            }
            assert queues == any(parameter["name"] == "X-Request-Priority" for parameter in operation["parameters"])


async def test_every_path_on_the_page_exists(page: dict[str, Any], router: Site) -> None:
    for path, found in page["paths"].items():
        answer = await router.client.request("TRACE", path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405, path
        assert {method.upper() for method in found} == set(answer.headers["allow"].split(", ")) - {"HEAD"}


async def test_the_page_knows_who_may_come_in(page: dict[str, Any], tmp_path: Path) -> None:
    async with site(tmp_path, api_key="key") as guarded:
        for method, path, operation in operations(page):
            answer = await guarded.client.request(method, path.replace("{", "").replace("}", ""))
            is_open = operation.get("security", page["security"]) == []
            assert is_open == (answer.status_code != 401), path
            assert is_open == operation["responses"].keys().isdisjoint({"401", "403"}), path


async def test_further_keys_are_told(page: dict[str, Any]) -> None:
    token: dict[str, list[str]] = {"metrics-token": []}
    ticket: dict[str, list[str]] = {"ticket": []}
    admin: dict[str, list[str]] = {"admin-key": []}
    told = {f"{method} {path}": found["security"] for method, path, found in operations(page) if "security" in found}
    assert page["security"] == KEYS
    assert told == {
        "GET /health": [],
        "GET /healthz": [],
        "GET /metrics": [*KEYS, token],
        "GET /metrics/stream": [*KEYS, token, ticket],
        "GET /v1/models/status/stream": [*KEYS, ticket],
        "GET /slots": [admin],
        "POST /lora-adapters": [admin],
        "GET /v1/health/models": [admin],
        "POST /v1/models/load": [admin],
        "POST /v1/models/eject": [admin],
        "POST /v1/models/{alias}/reset": [admin],
        "POST /v1/reload": [admin],
    }
    schemes = page["components"]["securitySchemes"]
    assert {name for key in (*KEYS, token, ticket, admin) for name in key} == schemes.keys()
    assert (schemes["ticket"]["in"], schemes["ticket"]["name"]) == ("query", "ticket")
    assert "METRICS_TOKEN" in schemes["metrics-token"]["description"]


async def test_errors_have_one_shape_and_anthropics_their_own(page: dict[str, Any]) -> None:
    ours, anthropics = ({"$ref": f"#/components/schemas/{name}"} for name in ("Error", "AnthropicError"))
    for _, path, operation in operations(page):
        own = anthropics if path.startswith("/v1/messages") else ours
        expected = str({"oneOf": [ours, anthropics]} if path == ANYTHING else own)
        assert error_schemas(operation) == {expected}, path
    schemas = page["components"]["schemas"]
    assert [name for name, schema in schemas.items() if "error" in schema.get("properties", ())] == [
        "Error",
        "AnthropicError",
    ]
    assert schemas["ErrorDetail"]["required"] == ["message", "type", "param", "code"]
    assert schemas["AnthropicError"]["required"] == ["type", "error", "request_id"]


async def test_every_schema_that_is_named_is_there(page: dict[str, Any]) -> None:
    assert set(re.findall(r"#/components/schemas/(\w+)", str(page))) == page["components"]["schemas"].keys()


async def test_a_wrong_value_is_a_400_and_an_unknown_model_a_404(page: dict[str, Any]) -> None:
    assert "'422'" not in str(page["paths"])
    paths = page["paths"]
    assert "400" in paths["/v1/telemetry/summary"]["get"]["responses"]
    named = [found for _, path, found in operations(page) if re.search(r"\{(alias|model)\}", path)]
    assert len(named) == 5
    assert all("404" in found["responses"] for found in named)
    assert "400" not in paths["/v1/models/{model}"]["get"]["responses"]


async def test_below_upstream_the_body_is_the_childs_business(page: dict[str, Any]) -> None:
    assert page["paths"][ANYTHING]["post"]["requestBody"] == {"required": False, "content": {"*/*": {"schema": {}}}}


async def test_tags_are_lower_case(page: dict[str, Any]) -> None:
    tags = {tag for _, _, operation in operations(page) for tag in operation["tags"]}
    assert tags == {"relayed", "models", "management", "monitoring", "live"}


async def test_operation_ids_are_unique(page: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(page)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
async def test_the_page_is_there(path: str, router: Site) -> None:
    assert (await router.client.get(path)).status_code == 200
