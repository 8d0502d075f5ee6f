"""`/docs`: plain, complete, and nothing that could run."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from html import unescape
from pathlib import Path

from router.api.routes.pages import render
from tests.fakes.site import Site, site

MARKUP = '"><script>alert(1)</script><img src=x onerror=alert(1)>`<b>`'


async def test_the_page_tells_every_operation_and_every_schema(router: Site) -> None:
    document = (await router.client.get("/openapi.json")).json()
    page = unescape((await router.client.get("/docs")).text)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"<b><code>{method.upper()}</code></b> <code>{path}</code>" in page
            assert operation["summary"] in page
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page


async def test_a_browser_can_open_it_without_a_key_and_it_asks_for_nothing_else(tmp_path: Path) -> None:
    async with site(tmp_path, api_key="a-key-of-ours") as found:
        answer = await found.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"\b(?:src|href)=\"([^#][^\"]*)\"", answer.text) == ["/openapi.json"]
    assert not re.search(r"<(script|img|iframe|form|link|object)|\son\w+=|style=|javascript:", answer.text)


async def test_its_policy_lets_in_its_own_style_and_nothing_more(router: Site) -> None:
    answer = await router.client.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_nothing_that_a_document_says_becomes_markup() -> None:
    operation = {
        "tags": [MARKUP],
        "summary": MARKUP,
        "description": MARKUP,
        "security": [{MARKUP: []}],
        "parameters": [{"name": MARKUP, "in": MARKUP, "description": MARKUP}],
        "requestBody": {"content": {MARKUP: {"schema": {"title": MARKUP}}}},
        "responses": {MARKUP: {"description": MARKUP, "content": {MARKUP: {"schema": {"$ref": f"#/{MARKUP}"}}}}},
    }
    page = render(
        {
            "info": {"title": MARKUP, "version": MARKUP, "description": MARKUP},
            "paths": {MARKUP: {MARKUP: operation}},
            "components": {"schemas": {MARKUP: {"title": MARKUP}}},
        }
    )
    assert not re.search(r"<(script|img)|<b>[^<]", page, re.IGNORECASE)
    assert not re.search(r"=\"[^\"]*\"[^ >]", page), "a value of an attribute ends early"
