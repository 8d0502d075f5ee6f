"""A request about many things holds nobody up for long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.make_demo_models import ModelSpec, write_model
from tests.support.models import FLAGS
from tests.support.observing import in_background, metric, wait_for_status
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until
from tests.support.wire import Wire

pytestmark = pytest.mark.llama

MODEL = "embed"
MANY = [f"a text of some length, number {number}" for number in range(200)]


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A model of one slot that takes its time."""
    folder = tmp_path_factory.mktemp("arrays")
    path = write_model(folder / "embed.gguf", ModelSpec(name="embed", pooling="mean", layers=4, embd=256, ff=1024))
    configured = {MODEL: {"model_path": str(path), "flags": [*FLAGS, "--embedding", "-np", "1"]}}
    with router(folder, configured, system={"preload_models": [MODEL]}) as running:
        wait_for_status(running, MODEL, "ready")
        yield running
        assert running.process.poll() is None
        assert "Traceback" not in running.log


def granted(running: RunningRouter) -> float:
    return metric(running, "router_queue_wait_seconds_count")


def test_one_input_is_answered_before_two_hundred(embedding: RunningRouter) -> None:
    order: list[str] = []

    def embed(name: str, inputs: list[str]) -> int:
        answer = embedding.client.post("/v1/embeddings", json={"model": MODEL, "input": inputs})
        assert answer.status_code == 200, answer.text
        order.append(name)
        return len(answer.json()["data"])

    before = granted(embedding)
    with in_background(3) as pool:
        many = pool.submit(embed, "many", MANY)
        wait_until(lambda: granted(embedding) > before, what="the first piece at work")
        assert [pool.submit(embed, "one", ["short"]).result() for _ in range(3)] == [1, 1, 1]
        assert not many.done()
        assert many.result() == len(MANY)
    assert order == ["one", "one", "one", "many"]
    assert granted(embedding) - before == 13 + 3


def test_a_client_that_leaves_leaves_the_rest_undone(embedding: RunningRouter) -> None:
    before, cancelled = granted(embedding), metric(embedding, "router_requests_total", status="cancelled")
    with Wire(embedding.url) as wire:
        wire.post("/v1/embeddings", {"model": MODEL, "input": MANY})
        wait_until(lambda: granted(embedding) >= before + 2, what="the second piece at work")
    wait_until(lambda: metric(embedding, "router_requests_total", status="cancelled") > cancelled)
    after = granted(embedding)
    assert 2 <= after - before < 13
    answer = embedding.client.post("/v1/embeddings", json={"model": MODEL, "input": ["short"]})
    assert answer.status_code == 200
    assert granted(embedding) == after + 1
