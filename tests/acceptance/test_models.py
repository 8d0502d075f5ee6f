"""Naming a model, and what it can do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from scripts.make_demo_models import ModelSpec, write_model
from tests.support.expect import expect_anthropic_error, expect_error
from tests.support.models import FLAGS, Models
from tests.support.router import RunningRouter, router

ROUTED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/tokenize")


@pytest.mark.usefixtures("nothing_forwarded")
@pytest.mark.parametrize("path", ROUTED)
def test_unknown_model(running_router: RunningRouter, path: str) -> None:
    seconds = []
    for _ in range(5):
        before = time.perf_counter()
        response = running_router.client.post(path, json={"model": "nope", "input": "x"})
        seconds.append(time.perf_counter() - before)
        error = expect_error(response, 404, code="model_not_found", param="model")
        assert "nope" in error["message"]
    assert min(seconds) < 0.05


def test_unknown_model_retrieved(running_router: RunningRouter) -> None:
    expect_error(running_router.client.get("/v1/models/nope"), 404, code="model_not_found", param="model")


def test_unknown_model_in_anthropics_shape(running_router: RunningRouter) -> None:
    response = running_router.client.post("/v1/messages", json={"model": "nope", "messages": [], "max_tokens": 1})
    expect_anthropic_error(response, 404, "not_found_error")


NO_NAMES: dict[str, dict[str, Any]] = {
    "missing": {}, "empty": {"model": ""}, "null": {"model": None}, "number": {"model": 5}, "list": {"model": ["chat"]},
    "object": {"model": {"name": "chat"}}, "bool": {"model": True},
}  # fmt: skip


@pytest.mark.usefixtures("nothing_forwarded")
@pytest.mark.parametrize("fields", NO_NAMES.values(), ids=NO_NAMES)
def test_no_model(running_router: RunningRouter, fields: dict[str, Any]) -> None:
    response = running_router.client.post("/v1/chat/completions", json={"messages": [], **fields})
    expect_error(response, 400, param="model")


RETRIEVED = {
    "slash": ("org/chatter:q4", "org/chatter:q4"),
    "encoded-slash": ("org%2Fchatter:q4", "org/chatter:q4"),
    "encoded-colon": ("org%2Fchatter%3Aq4", "org/chatter:q4"),
    "unicode": ("%C3%BCn%C3%AF%20%E6%A8%A1%E5%9E%8B", "ünï 模型"),
    "other-name": ("gpt-4o-mini", "chat"),
}


@pytest.mark.parametrize(("path", "model"), RETRIEVED.values(), ids=RETRIEVED)
def test_retrieve(running_router: RunningRouter, path: str, model: str) -> None:
    response = running_router.client.get(f"/v1/models/{path}")
    assert response.status_code == 200, response.text
    assert response.json()["id"] == model
    assert response.json()["object"] == "model"


@pytest.mark.parametrize("model", ["org/chatter:q4", "ünï 模型"])
def test_retrieve_with_the_sdk(running_router: RunningRouter, model: str) -> None:
    with openai.OpenAI(base_url=f"{running_router.url}/v1", api_key=running_router.api_key) as client:
        assert client.models.retrieve(model).id == model


@pytest.mark.parametrize("model", ["org/chatter:q4", "ünï 模型"])
def test_chat_with_an_odd_name(running_router: RunningRouter, model: str) -> None:
    response = running_router.chat(model)
    assert response.status_code == 200
    assert response.json()["model"] == model


@pytest.fixture(scope="module")
def embedders(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router with an encoder, which has no output layer, and a model that was started with `--embedding`."""
    folder = tmp_path_factory.mktemp("embedders")
    encoder = write_model(folder / "encoder.gguf", ModelSpec(name="encoder", architecture="bert", pooling="mean"))
    configured = {
        "encoder": {"model_path": str(encoder), "flags": [*FLAGS, "--embedding"]},
        "flagged": models.entry("embed"),
    }
    with router(folder / "router", configured, api_key="test-key") as running:
        yield running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["encoder", "flagged"])
def test_chat_with_an_embedding_model(embedders: RunningRouter, model: str, stream: bool) -> None:
    response = embedders.chat(model, stream=stream)
    expect_error(response, 400)
    assert response.headers["x-should-retry"] == "false"
    assert embedders.process.poll() is None


@pytest.mark.parametrize("model", ["encoder", "flagged"])
def test_chat_with_an_embedding_model_by_way_of_upstream(embedders: RunningRouter, model: str) -> None:
    response = embedders.client.post(f"/upstream/{model}/v1/chat/completions", json={"messages": []})
    expect_error(response, 400)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("model", ["encoder", "flagged"])
def test_embeddings_of_an_embedding_model(embedders: RunningRouter, model: str) -> None:
    response = embedders.client.post("/v1/embeddings", json={"model": model, "input": "Hi"})
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["embedding"]


def test_the_models_are_listed(running_router: RunningRouter) -> None:
    document = json.loads(running_router.client.get("/v1/models").content)
    assert {entry["id"] for entry in document["data"]} == set(running_router.models)
