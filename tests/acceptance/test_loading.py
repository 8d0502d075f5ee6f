"""Requests that meet a model which is not there yet, or will never be, or is busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.expect import expect_error, expect_retry_after
from tests.support.models import Models
from tests.support.observing import (
    at_once,
    in_background,
    loads,
    metric,
    queued,
    stream,
    wait_for_queue,
    wait_for_status,
)
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

MOST_WAITERS = 20
QUEUE_TIMEOUT = 5.0  # a load and twenty answers fit in, also on a busy machine


@pytest.fixture(scope="module")
def troubled(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router whose llama-server is the fake: each model has a trouble of its own."""
    folder = tmp_path_factory.mktemp("troubled")

    def entry(*flags: str) -> dict[str, Any]:
        return {"model_path": str(models.chat), "flags": list(flags)}

    configured = {
        "slow-to-load": entry("--ready-after", "1"),
        "crashing": entry(
            "--ready-after", "0.5", "--exit-code", "1", "--exit-message", "failed to allocate CUDA0 buffer"
        ),
        "never-ready": entry("--never-ready"),
        "busy": entry("--token-delay", "0.02", "--tokens", "1000"),
    }
    with router(
        folder,
        configured,
        system={
            "max_concurrent_models": 4,
            "queue_timeout_sec": QUEUE_TIMEOUT,
            "max_queue_size_per_model": MOST_WAITERS,
        },
        env={"LLAMA_SERVER_PATH": str(make_fake_binary(folder))},
        api_key="test-key",
    ) as running:
        yield running
        assert running.process.poll() is None
        assert "Traceback" not in running.log


def test_twenty_first_requests_start_one_child(running_router: RunningRouter) -> None:
    model = "org/chatter:q4"
    running_router.client.post("/v1/models/eject", json={"model": model})
    before, spawns = loads(running_router, model), spawned(running_router, model)
    responses = at_once([lambda: running_router.chat(model)] * 20)
    assert [response.status_code for response in responses] == [200] * 20
    assert loads(running_router, model) == before + 1
    assert spawned(running_router, model) == spawns + 1


def test_twenty_waiters_of_a_slow_load_start_one_child(troubled: RunningRouter) -> None:
    model = "slow-to-load"
    with in_background(20) as pool:
        answers = [pool.submit(troubled.chat, model) for _ in range(20)]
        wait_for_queue(troubled, model, 20)
        assert [answer.result().status_code for answer in answers] == [200] * 20
    assert loads(troubled, model) == 1
    assert spawned(troubled, model) == 1


def test_models_are_listed_during_a_load(troubled: RunningRouter) -> None:
    model = "slow-to-load"
    troubled.client.post("/v1/models/eject", json={"model": model})
    with in_background() as pool:
        answer = pool.submit(troubled.chat, model)
        wait_for_status(troubled, model, "loading")
        before = time.perf_counter()
        response = troubled.client.get("/v1/models")
        assert time.perf_counter() - before < 1
        assert not answer.done()
        states = {entry["id"]: entry["status"] for entry in response.json()["data"]}
        assert states[model] == "loading"
        assert answer.result().status_code == 200


def test_load_crash(troubled: RunningRouter) -> None:
    waiters = 4
    with in_background(waiters) as pool:
        answers = [pool.submit(troubled.chat, "crashing") for _ in range(waiters)]
        wait_for_queue(troubled, "crashing", waiters)
        for answer in answers:
            error = expect_error(answer.result(), 500, 502, 503)
            assert answer.result().headers["x-should-retry"] == "false"
            assert "failed to allocate CUDA0 buffer" in error["message"], "the child's own reason"
    assert loads(troubled, "crashing", "failure") == 1
    assert troubled.status("crashing")["status"] == "failed"


def test_load_over_its_limit(troubled: RunningRouter) -> None:
    before = time.perf_counter()
    response = troubled.chat("never-ready")
    assert QUEUE_TIMEOUT <= time.perf_counter() - before < QUEUE_TIMEOUT + 5
    expect_error(response, 503)
    expect_retry_after(response)
    assert troubled.status("never-ready")["status"] == "loading", "the load itself goes on"


def test_queue_full_and_the_sdk_tries_again(troubled: RunningRouter) -> None:
    statuses: list[int] = []
    with in_background(MOST_WAITERS + 1) as pool:
        with stream(troubled, "busy"):
            waiters = [pool.submit(troubled.chat, "busy", max_tokens=1) for _ in range(MOST_WAITERS)]
            wait_for_queue(troubled, "busy", MOST_WAITERS)
            refused = troubled.chat("busy")
            expect_error(refused, 429, code="queue_full")
            expect_retry_after(refused)
            asked = pool.submit(ask_with_sdk, troubled, statuses)
            wait_until(lambda: bool(statuses), what="a refusal of the SDK's request")
        assert asked.result() == "word0 "
        assert [waiter.result().status_code for waiter in waiters] == [200] * MOST_WAITERS
    assert statuses == [429, 200]
    assert queued(troubled, "busy") == 0
    assert metric(troubled, "router_queue_depth", model="busy") == 0


def ask_with_sdk(router: RunningRouter, statuses: list[int]) -> str | None:
    """Ask as an unmodified client would, and note each answer that it gets."""
    http = openai.DefaultHttpxClient(event_hooks={"response": [lambda response: statuses.append(response.status_code)]})
    with http, openai.OpenAI(base_url=f"{router.url}/v1", api_key=router.api_key, http_client=http) as client:
        answer = client.chat.completions.create(
            model="busy", max_tokens=1, messages=[{"role": "user", "content": "Hi"}]
        )
    return answer.choices[0].message.content


def spawned(router: RunningRouter, model: str) -> int:
    """How many children have been started for a model: each is a line of the log."""
    return sum(f" for {model} (replica " in line for line in router.log.splitlines() if " started " in line)
