"""The OpenAPI page: what FastAPI knows of its own routes, and the relayed paths out of their table."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from router.api.endpoints import ENDPOINTS, Endpoint
from router.api.priority import HEADER

_DESCRIPTION = (
    "Relayed paths take what llama-server takes and answer what it answers, byte for byte. "
    "Errors have OpenAI's shape with all four keys, on `/v1/messages` Anthropic's. "
    "Every reply carries `x-request-id`."
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_FAILURES = {
    "400": "The request cannot be understood, or the model cannot do this",
    "401": "No key, or a wrong one",
    "403": "This peer may not come in",
    "404": "No such model",
    "413": "The body is larger than `api.max_body_mb`",
    "429": "The model's queue is full; see `Retry-After`",
    "502": "The model's server broke off",
    "503": "No slot in time, or the model cannot be loaded; see `Retry-After` and `x-should-retry`",
    "504": "No progress for `system.request_timeout_sec`",
}
_PRIORITY = {
    "name": HEADER,
    "in": "header",
    "description": "Class in the queue. Without it `service_tier` decides: `priority` is high, `flex` is low.",
    "schema": {"type": "string", "enum": ["high", "normal", "low", "1", "2", "3"], "default": "normal"},
}
_MODEL = {"name": "model", "in": "query", "required": True, "schema": {"type": "string"}}
_UPSTREAM = Endpoint(
    "/upstream/{alias}/{path}", ("GET", "POST"), "query", leased=True, generates=False, summary="Anything of a child"
)


def install(app: FastAPI) -> None:
    """Make `app.openapi()` tell of the relayed paths too."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's own way to extend the page


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=_DESCRIPTION, routes=app.routes
    )
    components = found.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    found["security"] = [{"bearer": []}, {"x-api-key": []}]
    for endpoint in (*ENDPOINTS, _UPSTREAM):
        operations = found["paths"].setdefault(endpoint.path, {})
        operations.update({method.lower(): _operation(endpoint, method) for method in endpoint.methods})
    _describe_own_errors(found["paths"])
    return found


def _operation(endpoint: Endpoint, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": ["Relayed to the model"],
        "summary": endpoint.summary,
        "operationId": f"{method.lower()}{endpoint.path}",
        "parameters": _parameters(endpoint),
        "responses": {"200": _answer(endpoint)} | _failures(),
    }
    if method == "POST":
        found["requestBody"] = {"required": True, "content": _request(endpoint)}
    return found


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint is _UPSTREAM:
        in_path = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in ("alias", "path")
        ]
        return [*in_path, _PRIORITY]
    return [_MODEL, _PRIORITY] if endpoint.model_in == "query" else [_PRIORITY]


def _request(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.model_in == "query":
        return {"application/json": {"schema": {}}}
    kind = "application/json" if endpoint.model_in == "json" else "multipart/form-data"
    named = {"type": "object", "required": ["model"], "properties": {"model": {"type": "string"}}}
    return {kind: {"schema": named | {"additionalProperties": True}}}


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {}}}
    if endpoint.model_in != "query":
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "The model's own answer", "content": content}


def _failures() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": text, "content": content} for status, text in _FAILURES.items()}


def _describe_own_errors(paths: dict[str, Any]) -> None:
    """FastAPI announces `{"detail": …}` with 422 for its own routes; the router answers 400 in OpenAI's shape."""
    told = _failures()
    for operations in paths.values():
        for operation in operations.values():
            if operation["responses"].pop("422", None) is not None:
                operation["responses"]["400"] = told["400"]
