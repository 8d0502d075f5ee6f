"""The OpenAPI page: what FastAPI knows of the router's own routes, and the relayed paths out of their table."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from router.api.endpoints import ANYTHING, ENDPOINTS, Claim, Endpoint, dialect_of
from router.api.failures import MEANINGS
from router.api.needs import KEY, Level, Need, need_of
from router.api.priority import HEADER
from router.api.schemas import AnthropicError, Error
from router.proxy.dialect import Dialect

_DESCRIPTION = (
    "Relayed paths take what llama-server takes and answer what it answers, byte for byte. "
    "Errors have OpenAI's shape with all four keys, on `/v1/messages` and below Anthropic's. "
    "Every reply carries `x-request-id`. "
    "Without `API_KEY` clients on the router's own machine need no key. What is below `/upstream` needs what the same "
    "call needs elsewhere, and what is known nowhere else the admin key."
)
_REF = "#/components/schemas/"
_TAG = "relayed"
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`API_KEY`"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "`API_KEY`"},
    "metrics-token": {
        "type": "http",
        "scheme": "bearer",
        "description": "`METRICS_TOKEN`, also as `x-api-key`; not with `?model=`",
    },
    "admin-key": {
        "type": "http",
        "scheme": "bearer",
        "description": "`ADMIN_API_KEY`, also as `x-api-key`; where none is set, a key as for everything else",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A single-use ticket of `POST /v1/stream-ticket`",
    },
}
_Security = list[dict[str, list[str]]]
_KEYS: _Security = [{"bearer": []}, {"x-api-key": []}]
_ADMIN: _Security = [{"admin-key": []}]
_PRIORITY = {
    "name": HEADER,
    "in": "header",
    "description": "Class in the queue. Without it `service_tier` decides: `priority` is high, `flex` is low.",
    "schema": {"type": "string", "enum": ["high", "normal", "low", "1", "2", "3"], "default": "normal"},
}


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
    paths, components = found["paths"], found["components"]
    _correct(app, paths, components["schemas"])
    _, shapes = models_json_schema(
        [(Error, "serialization"), (AnthropicError, "serialization")], ref_template=_REF + "{model}"
    )
    components["schemas"] |= shapes["$defs"]
    components["securitySchemes"] = _SCHEMES
    found["security"] = _KEYS
    for endpoint in (*ENDPOINTS, *ANYTHING.values()):
        operations = paths.setdefault(endpoint.path, {})
        operations.update({method.lower(): _operation(endpoint, method) for method in endpoint.methods})
    return found


def _correct(app: FastAPI, paths: dict[str, Any], schemas: dict[str, Any]) -> None:
    """What FastAPI cannot know of its routes: who may come in, and that a wrong value is a 400 and no 422."""
    spelled = {route.path_format: route.path for route in app.routes if isinstance(route, APIRoute)}
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            _secure(operation, need_of(method.upper(), spelled[path]))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _secure(operation: dict[str, Any], need: Need) -> None:
    """Say who may come in, where that is not what the whole document says."""
    if need.level is Level.OPEN:
        operation["security"] = []
        del operation["responses"]["401"], operation["responses"]["403"]
    elif need.level is Level.ADMIN:
        operation["security"] = _ADMIN
    elif need.token or need.ticket:
        further = {"metrics-token": need.token, "ticket": need.ticket}
        operation["security"] = _KEYS + [{name: []} for name, will_do in further.items() if will_do]


def _operation(endpoint: Endpoint, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": [_TAG],
        "summary": endpoint.summary,
        "operationId": f"{method.lower()}{endpoint.path}",
        "parameters": _parameters(endpoint),
        "responses": {"200": _answer(endpoint)} | _failures(endpoint),
    }
    if method == "POST":
        found["requestBody"] = _request(endpoint)
    _secure(found, KEY if endpoint.model_in == "path" else need_of(method, endpoint.path))
    return found


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    places = {"query": [("query", "model")], "path": [("path", "alias"), ("path", "path")]}
    named = [
        {"name": name, "in": place, "required": True, "schema": {"type": "string"}}
        for place, name in places.get(endpoint.model_in, [])
    ]
    return named if endpoint.claim is Claim.NOTHING else [*named, _PRIORITY]


def _request(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.model_in == "path":
        return {"required": False, "content": {"*/*": {"schema": {}}}}
    if endpoint.model_in == "query":
        return {"required": True, "content": {"application/json": {"schema": {"type": "array"}}}}
    kind = "application/json" if endpoint.model_in == "json" else "multipart/form-data"
    named = {"type": "object", "required": ["model"], "properties": {"model": {"type": "string"}}}
    return {"required": True, "content": {kind: {"schema": named | {"additionalProperties": True}}}}


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    kinds = {"path": ["*/*"], "query": ["application/json"]}.get(
        endpoint.model_in, ["application/json", "text/event-stream"] if endpoint.generates else ["application/json"]
    )
    return {"description": "The model's own answer", "content": {kind: {"schema": {}} for kind in kinds}}


def _failures(endpoint: Endpoint) -> dict[str, Any]:
    content = {"application/json": {"schema": _error_schema(endpoint)}}
    # What does without a slot never meets the queue.
    left_out = {429, 504} if endpoint.claim is Claim.NOTHING else set()
    told = {str(status): text for status, text in MEANINGS.items() if status not in left_out}
    told["default"] = "An error of the model's server, with its status"
    return {status: {"description": text, "content": content} for status, text in told.items()}


def _error_schema(endpoint: Endpoint) -> dict[str, Any]:
    ours, anthropics = {"$ref": _REF + Error.__name__}, {"$ref": _REF + AnthropicError.__name__}
    if endpoint.model_in == "path":
        return {"oneOf": [ours, anthropics]}
    return anthropics if dialect_of(endpoint.path) is Dialect.ANTHROPIC else ours
