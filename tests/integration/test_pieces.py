"""An array that goes to llama.cpp in pieces is answered as the same llama.cpp answers it whole.

The numbers agree to 1e-5, not to the last digit: llama.cpp computes the elements of a batch together, and the order in
which a matrix product adds up depends on the size of the batch. All else is the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from router.proxy.pieces.cutting import SIZE
from scripts.make_demo_models import ModelSpec, write_model
from tests.support.expect import expect_error
from tests.support.models import FLAGS, Models
from tests.support.observing import metric
from tests.support.router import RunningRouter, router

pytestmark = pytest.mark.llama

TEXTS = [f"Grüße {'и' * (number % 7)} {number * 7919} {'x' * (number * 5 % 60)}" for number in range(3 * SIZE + 5)]
TOKENS = [[300 + number % 60, 301, *range(40, 45 + number % 9)] for number in range(len(TEXTS))]
MIXED: list[Any] = [
    text if number % 3 else tokens for number, (text, tokens) in enumerate(zip(TEXTS, TOKENS, strict=True))
]
CONTENTS = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]


@pytest.fixture(scope="module")
def serving(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    folder = tmp_path_factory.mktemp("pieces")
    rank = write_model(folder / "rank.gguf", ModelSpec(name="rank", pooling="rank"))
    configured = {
        "embed": models.entry("embed", "-np", "2"),
        # One slot: with several llama.cpp gives the same documents of such a model other scores each time.
        "rank": {"model_path": str(rank), "flags": [*FLAGS, "--reranking", "-np", "1"]},
    }
    with router(folder, configured) as running:
        yield running
        assert "Traceback" not in running.log


def whole(running: RunningRouter, path: str, body: bytes) -> httpx.Response:
    """As the model's server answers when nobody stands between: the second array's bytes keep the first one whole."""
    document = json.loads(body)
    untouched = body[:-1] + b',"untouched":' + body + b"}"
    assert json.loads(untouched)["model"] == document["model"]
    return running.client.post(path, content=untouched)


def asked_both_ways(running: RunningRouter, path: str, **fields: Any) -> tuple[Any, Any]:
    body = json.dumps(fields).encode()
    before = metric(running, "router_queue_wait_seconds_count")
    one = whole(running, path, body)
    between = metric(running, "router_queue_wait_seconds_count")
    found = running.client.post(path, content=body)
    assert (between - before, metric(running, "router_queue_wait_seconds_count") - between) == (1, 4)
    assert (one.status_code, found.status_code) == (200, 200)
    assert found.headers["content-type"] == one.headers["content-type"]
    assert abs(len(found.content) - len(one.content)) < len(one.content) * 0.01
    return one.json(), found.json()


def assert_alike(one: Any, other: Any) -> None:
    """The same, keys in the same order, but for the last digits of floats."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right)
    elif isinstance(one, float):
        assert other == pytest.approx(one, abs=1e-5)
    else:
        assert one == other


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": TEXTS}),
        ("/v1/embeddings", {"input": TOKENS}),
        ("/v1/embeddings", {"input": MIXED}),
        ("/v1/embeddings", {"input": CONTENTS}),
        ("/v1/embeddings", {"content": TEXTS}),
        ("/embeddings", {"input": TEXTS}),
        ("/embedding", {"content": TEXTS, "embd_normalize": -1}),
    ],
)
def test_embeddings(serving: RunningRouter, path: str, fields: dict[str, Any]) -> None:
    one, found = asked_both_ways(serving, path, model="embed", **fields)
    assert_alike(one, found)
    items = found["data"] if isinstance(found, dict) else found
    assert [item["index"] for item in items] == list(range(len(TEXTS)))
    if isinstance(found, dict):
        assert found["usage"]["total_tokens"] > len(TEXTS)


def test_embeddings_in_base64(serving: RunningRouter) -> None:
    one, found = asked_both_ways(serving, "/v1/embeddings", model="embed", input=TEXTS, encoding_format="base64")
    for document in (one, found):
        for item in document["data"]:
            item["embedding"] = np.frombuffer(base64.b64decode(item["embedding"]), np.float32).astype(float).tolist()
    assert_alike(one, found)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
@pytest.mark.parametrize("more", [{}, {"top_n": 5}, {"top_n": 2 * SIZE + 1}, {"top_n": "all"}])
def test_documents_are_ranked(serving: RunningRouter, path: str, more: dict[str, Any]) -> None:
    one, found = asked_both_ways(serving, path, model="rank", query="Grüße", documents=TEXTS, **more)
    assert_alike(one, found)
    top_n = more.get("top_n")
    assert len(found["results"]) == (top_n if isinstance(top_n, int) else len(TEXTS))


def test_documents_are_ranked_as_texts(serving: RunningRouter) -> None:
    one, found = asked_both_ways(serving, "/rerank", model="rank", query="Hi", texts=TEXTS, return_text=True)
    assert_alike(one, found)
    assert all(item["text"] == TEXTS[item["index"]] for item in found)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"model": "embed", "input": [*TOKENS, []]}),
        ("/v1/embeddings", {"model": "embed", "input": [*TEXTS, "x" * 5000]}),
        ("/v1/embeddings", {"model": "embed", "input": [*TEXTS, None]}),
        ("/v1/embeddings", {"model": "embed", "input": TEXTS, "encoding_format": "hex"}),
        ("/v1/embeddings", {"model": "rank", "input": [[], *TEXTS]}),
        ("/v1/rerank", {"model": "rank", "documents": TEXTS}),
        ("/v1/rerank", {"model": "rank", "query": "Hi", "documents": [*TEXTS, {"text": "x"}]}),
        ("/v1/rerank", {"model": "rank", "query": "Hi", "documents": TEXTS, "top_n": -1}),
        ("/v1/rerank", {"model": "embed", "query": "Hi", "documents": TEXTS}),
    ],
)
def test_what_llama_server_refuses(serving: RunningRouter, path: str, fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    one, found = whole(serving, path, body), serving.client.post(path, content=body)
    expect_error(found, one.status_code)
    assert found.status_code == one.status_code
    assert found.json()["error"] == one.json()["error"]


def test_openai_python_gets_all_of_them(serving: RunningRouter) -> None:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="embed", input=TEXTS)
    assert [item.index for item in answer.data] == list(range(len(TEXTS)))
    assert all(len(item.embedding) == len(answer.data[0].embedding) for item in answer.data)


def test_a_model_that_embeds_nothing_refuses_at_the_first_piece(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"chat": models.entry("chat")}) as running:
        expect_error(running.client.post("/v1/embeddings", json={"model": "chat", "input": TEXTS}), 400)
        assert metric(running, "router_queue_wait_seconds_count") == 1
