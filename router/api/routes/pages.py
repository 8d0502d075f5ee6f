"""The OpenAPI document, and `/docs`: the same as one plain page, without scripts, and with nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute, Route

_STYLE = """\
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: 4px }
summary { cursor: pointer; padding: .25rem 0 }
details > :not(summary) { margin-left: 1.25rem }
b { display: inline-block; min-width: 3.5rem }
"""
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# For everything that a browser shows as a page of ours.
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


def routes(app: FastAPI) -> list[BaseRoute]:
    """The pages of this app. They are plain functions, so made in a thread: the first one takes 0.2 s."""

    @cache
    def page() -> str:
        return render(app.openapi())

    def docs(request: Request) -> HTMLResponse:  # noqa: ARG001  starlette's signature
        return HTMLResponse(page(), headers=dict(HEADERS))

    def document(request: Request) -> JSONResponse:  # noqa: ARG001
        return JSONResponse(app.openapi())

    return [
        Route("/docs", docs, methods=["GET"], include_in_schema=False),
        Route("/openapi.json", document, methods=["GET"], include_in_schema=False),
    ]


def render(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML. Whatever it says is text: nothing of it becomes markup."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[next(iter(operation.get("tags", ())), "other")].append(_operation(method, path, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>\n{''.join(found)}" for tag, found in sorted(by_tag.items()))
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n<p>{_prose(document['info'].get('description', ''))}</p>\n"
        '<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>\n'
        f"{sections}<h2>schemas</h2>\n{schemas}</body></html>\n"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    head = f"<b><code>{escape(method.upper())}</code></b> <code>{escape(path)}</code> {_prose(operation['summary'])}"
    return f"<details><summary>{head}</summary>\n{''.join(_parts(operation))}</details>\n"


def _parts(operation: Mapping[str, Any]) -> Iterator[str]:
    if description := operation.get("description"):
        yield f"<p>{_prose(description)}</p>\n"
    keys = [name for one in operation.get("security", ()) for name in one]
    if keys:
        yield f"<p>Key: {escape(', '.join(keys))}</p>\n"
    for one in operation.get("parameters", ()):
        need = "required" if one.get("required") else "optional"
        told = _prose(one.get("description", ""))
        yield f"<p><code>{escape(one['name'])}</code> in {escape(one['in'])}, {need}. {told}</p>\n"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{escape(kind)}</code></p>{_json(content.get('schema', {}))}"
    for status, answer in operation["responses"].items():
        shapes = {
            escape(name.rpartition("/")[2])
            for content in answer.get("content", {}).values()
            for name in re.findall(r'"\$ref": "([^"]+)"', json.dumps(content))
        }
        links = ", ".join(f'<a href="#{name}">{name}</a>' for name in sorted(shapes))
        yield f"<p><code>{escape(status)}</code> {_prose(answer['description'])} {links}</p>\n"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    return f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3>{_json(schema)}'


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>\n"


def _prose(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
