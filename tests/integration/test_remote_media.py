"""What llama-server would fetch for a client, and that it is not asked to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.support.models import Models
from tests.support.projector import write_projector
from tests.support.router import RunningRouter, router

pytestmark = pytest.mark.llama

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PIXEL = f"data:image/png;base64,{PNG}"
ADDRESS, SHOUTED = "ADDRESS", "SHOUTED"  # stand for the neighbour's
PICTURE = {"type": "image_url", "image_url": {"url": ADDRESS}}


@dataclass
class Neighbour:
    """A server in the router's network that no client should reach."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Neighbour(f"http://127.0.0.1:{server.server_port}/secret")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def seeing(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    projector = ("--mmproj", str(write_projector(tmp_path_factory.mktemp("projector") / "mmproj.gguf")))
    configured = {
        "eyes": models.entry("chat", *projector),
        "embed": models.entry("embed", *projector),
        "blind": models.entry("chat"),
    }
    with router(tmp_path_factory.mktemp("router"), configured, api_key="test-key") as running:
        yield running


def allow(running: RunningRouter, allowed: bool) -> RunningRouter:
    """Have it read its configuration anew with this."""
    file = running.folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config["api"].get("allow_remote_media", False) is not allowed:
        config["api"]["allow_remote_media"] = allowed
        file.write_text(json.dumps(config), encoding="utf-8")
        assert running.client.post("/v1/reload").json()["applied"] == ["api.allow_remote_media"]
    return running


@pytest.fixture
def strict(seeing: RunningRouter) -> RunningRouter:
    return allow(seeing, False)


@pytest.fixture
def allowing(seeing: RunningRouter) -> RunningRouter:
    return allow(seeing, True)


def ask(running: RunningRouter, neighbour: Neighbour, path: str, body: str) -> httpx.Response:
    """The answer; llama-server has fetched what it wants by then."""
    neighbour.asked.clear()
    told = body.replace(ADDRESS, neighbour.url).replace(SHOUTED, neighbour.url.replace("http", "HTTP"))
    return running.client.post(path, content=told.encode(), headers={"content-type": "application/json"})


def chat(part: Mapping[str, Any], model: str = "eyes") -> str:
    messages = [{"role": "user", "content": [part]}]
    return json.dumps({"model": model, "max_tokens": 1, "messages": messages})


def responses(*items: Mapping[str, Any]) -> str:
    return json.dumps({"model": "eyes", "max_output_tokens": 1, "input": items})


SHOWN = {"type": "input_image", "image_url": ADDRESS}
SOURCE = {"type": "image", "source": {"type": "url", "url": ADDRESS}}
CALLED = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "1", "output": [SHOWN]}
FETCHED = {
    "picture": ("/v1/chat/completions", chat(PICTURE)),
    "film": ("/v1/chat/completions", chat({"type": "video_url", "video_url": {"url": ADDRESS}})),
    "film as data": ("/v1/chat/completions", chat({"type": "input_video", "input_video": {"data": ADDRESS}})),
    "escaped": ("/v1/chat/completions", chat(PICTURE).replace("image_url", "\\u0069mage_url")),
    "last of two": ("/v1/chat/completions", chat(PICTURE).replace('"type": "image', '"type": "text", "type": "image')),
    "streamed": ("/v1/chat/completions", chat(PICTURE).replace('"max_tokens": 1', '"stream": true')),
    "responses": ("/v1/responses", responses({"role": "user", "content": [SHOWN]})),
    "tool's output": ("/v1/responses", responses(CALLED, RESULT)),
    "messages": ("/v1/messages", chat(SOURCE)),
    "tool's result": ("/v1/messages", chat({"type": "tool_result", "tool_use_id": "1", "content": [SOURCE]})),
    "counted": ("/v1/messages/count_tokens", chat(SOURCE)),
    "template": ("/apply-template", chat(PICTURE)),
    "embedded": ("/v1/embeddings", json.dumps({"model": "embed", "input": {"content": [PICTURE]}})),
    "embedded, llama.cpp's": ("/embedding", json.dumps({"model": "embed", "content": [{"content": [PICTURE]}]})),
    "upstream": ("/upstream/eyes/chat/completions", chat(PICTURE)),
}  # fmt: skip
# Not taken for addresses, by llama-server either.
UNTOUCHED = {
    "its own": chat({"type": "image_url", "image_url": {"url": PIXEL}}),
    "upper case": chat({"type": "image_url", "image_url": {"url": SHOUTED}}),
    "blank": chat({"type": "image_url", "image_url": {"url": " " + ADDRESS}}),
    "text": chat({"type": "text", "text": ADDRESS}),
    "no picture in the end": chat(PICTURE)[:-5] + ', "type": "text", "text": "x"}]}]}',
    "another address in the end": chat(PICTURE).replace(f'"{ADDRESS}"', f'"{ADDRESS}", "url": "{PIXEL}"'),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body"), FETCHED.values(), ids=FETCHED)
def test_llama_server_would_fetch_it(allowing: RunningRouter, neighbour: Neighbour, path: str, body: str) -> None:
    answer = ask(allowing, neighbour, path, body)
    assert neighbour.asked == ["/secret"], answer.text


@pytest.mark.parametrize(("path", "body"), FETCHED.values(), ids=FETCHED)
def test_it_is_not_asked_to(strict: RunningRouter, neighbour: Neighbour, path: str, body: str) -> None:
    answer = ask(strict, neighbour, path, body)
    assert answer.status_code == 400
    assert "addresse" in answer.json()["error"]["message"]
    assert neighbour.asked == []


@pytest.mark.parametrize("body", UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_is_let_through_is_not_fetched(strict: RunningRouter, neighbour: Neighbour, body: str) -> None:
    answer = ask(strict, neighbour, "/v1/chat/completions", body)
    assert "not fetched" not in answer.text
    assert neighbour.asked == []


def test_a_picture_of_its_own_is_seen(strict: RunningRouter, neighbour: Neighbour) -> None:
    answer = ask(strict, neighbour, "/v1/chat/completions", UNTOUCHED["its own"])
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] > 4


def test_without_a_projector_nothing_is_fetched(allowing: RunningRouter, neighbour: Neighbour) -> None:
    """Which is why requests to such models are not looked through."""
    for part in (PICTURE, {"type": "video_url", "video_url": {"url": ADDRESS}}):
        answer = ask(allowing, neighbour, "/v1/chat/completions", chat(part, model="blind"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_by_model")
        assert neighbour.asked == []
