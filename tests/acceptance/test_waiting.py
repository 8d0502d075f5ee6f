"""Clients that wait for a slot: some leave, some are kept patient, some are let down."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import openai
import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.dialects import CHAT, ENDPOINTS, Endpoint
from tests.support.events import blocks, is_ping, place
from tests.support.expect import expect_broken_stream, expect_error
from tests.support.models import Models
from tests.support.observing import (
    at_once,
    in_background,
    metric,
    queued,
    read_to_the_end,
    stream,
    wait_for_queue,
    wait_for_status,
)
from tests.support.recording_llama_server import make_recording_binary
from tests.support.router import RunningRouter, router
from tests.support.wire import Wire, messages

pytestmark = pytest.mark.llama

PING_SEC = 0.1
QUEUE_TIMEOUT = 1.0
LONG = 1900  # tokens: seconds of work
MODEL = "one-slot"
KEY = "test-key"


@dataclass(frozen=True)
class Waiting:
    """Attributes:
    records: what the model's server was sent.
    """

    router: RunningRouter
    records: Path

    def dispatched(self) -> list[str]:
        """The `user` of each stream that the model's server was asked for, in order; those without are left out."""
        sent = [
            json.loads(message.body)
            for path in sorted(self.records.glob("*.request"))
            for message in messages(path.read_bytes())
            if message.body
        ]
        return [document["user"] for document in sent if "user" in document]


@pytest.fixture(scope="module")
def waiting(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waiting]:
    """A router that pings soon, with a model of one slot."""
    folder = tmp_path_factory.mktemp("waiting")
    binary = os.environ.get("LLAMA_SERVER_PATH")
    program = [binary] if binary else [sys.executable, "-m", "router.backends.embedded"]
    recording = make_recording_binary(folder, folder / "records", *program)
    with router(
        folder,
        {MODEL: models.entry("slow", "-np", "1")},
        api={"stream_ping_sec": PING_SEC},
        system={"preload_models": [MODEL]},
        env={"LLAMA_SERVER_PATH": str(recording)},
        api_key=KEY,
    ) as running:
        wait_for_status(running, MODEL, "ready")
        yield Waiting(running, folder / "records")
        assert running.process.poll() is None
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def given_up(models: Models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bool]]:
    """A stream of each endpoint that had been pinged when the wait for a slot took too long."""
    with router(
        tmp_path_factory.mktemp("given-up"),
        {MODEL: models.entry("slow", "-np", "1")},
        api={"stream_ping_sec": PING_SEC},
        system={"queue_timeout_sec": QUEUE_TIMEOUT, "preload_models": [MODEL]},
    ) as running:
        wait_for_status(running, MODEL, "ready")
        with stream(running, MODEL, max_tokens=LONG):
            wires = at_once([partial(asked, running, endpoint) for endpoint in ENDPOINTS.values()])
        assert "Traceback" not in running.log
    return dict(zip(ENDPOINTS, wires, strict=True))


def asked(running: RunningRouter, endpoint: Endpoint, model: str = MODEL) -> tuple[bytes, bool]:
    """A stream from its first ping on, and whether it ended as HTTP says."""
    with running.client.stream("POST", endpoint.path, json=endpoint.body(model, 4)) as response:
        assert response.status_code == 200
        return read_to_the_end(response)


def whole_stream(running: RunningRouter, user: str) -> bytes:
    with stream(running, MODEL, max_tokens=4, user=user) as response:
        wire, ended = read_to_the_end(response)
    assert ended
    return wire


def test_waiters_who_leave_are_never_sent(waiting: Waiting) -> None:
    running = waiting.router
    cancelled = metric(running, "router_requests_total", model=MODEL, status="cancelled")
    with in_background(3) as pool, stream(running, MODEL, max_tokens=LONG):
        with ExitStack() as leavers:
            first = pool.submit(whole_stream, running, "first")
            wait_for_queue(running, MODEL, 1)
            leavers.enter_context(Wire(running.url)).post(
                CHAT.path, CHAT.body(MODEL, 4, stream=False) | {"user": "leaves at once"}, api_key=KEY
            )
            wait_for_queue(running, MODEL, 2)
            second = pool.submit(whole_stream, running, "second")
            wait_for_queue(running, MODEL, 3)
            leavers.enter_context(stream(running, MODEL, max_tokens=4, user="leaves after a ping"))
            wait_for_queue(running, MODEL, 4)
            third = pool.submit(whole_stream, running, "third")
            wait_for_queue(running, MODEL, 5)
        wait_for_queue(running, MODEL, 3)
        assert metric(running, "router_requests_total", model=MODEL, status="cancelled") == cancelled + 2
        assert not any(waiter.done() for waiter in (first, second, third))
    assert all(waiter.result().endswith(b"data: [DONE]\n\n") for waiter in (first, second, third))
    assert queued(running, MODEL) == 0
    assert waiting.dispatched() == ["first", "second", "third"]


def test_a_waiting_stream_is_told_its_place(waiting: Waiting) -> None:
    running = waiting.router
    with ExitStack() as busy, ExitStack() as before:
        busy.enter_context(stream(running, MODEL, max_tokens=LONG))
        began = time.perf_counter()
        before.enter_context(stream(running, MODEL, max_tokens=4))
        assert PING_SEC <= time.perf_counter() - began < PING_SEC + 1, "a status is held back, but not for long"
        with stream(running, MODEL, max_tokens=8) as response:
            assert queued(running, MODEL) == 2
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-request-id"]
            told = blocks(response)
            assert place(next(told)) == 2
            before.close()
            while (now := place(next(told))) == 2:
                pass
            assert now == 1
            busy.close()
            rest = list(told)
    first = next(number for number, block in enumerate(rest) if not block.startswith(b":"))
    assert all(map(is_ping, rest[:first]))
    assert all(block.startswith(b"data: ") for block in rest[first:]), "nothing but the model's own from there"
    assert b'"finish_reason":"length"' in rest[-2]
    assert rest[-1] == b"data: [DONE]"


def test_openai_python_reads_a_stream_that_was_pinged(waiting: Waiting) -> None:
    running = waiting.router
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        with stream(running, MODEL, max_tokens=LONG):
            chunks = client.chat.completions.create(
                model=MODEL, max_tokens=8, stream=True, messages=[{"role": "user", "content": "Hi"}]
            )
            assert queued(running, MODEL) == 1, "the SDK has the status while it waits"
        got = [chunk.choices[0] for chunk in chunks]
    assert "".join(choice.delta.content or "" for choice in got)
    assert got[-1].finish_reason == "length"


def test_a_waiting_document_is_not_pinged(waiting: Waiting) -> None:
    running = waiting.router
    with Wire(running.url) as wire:
        with stream(running, MODEL, max_tokens=LONG):
            wire.post(CHAT.path, CHAT.body(MODEL, 4, stream=False), api_key=KEY)
            wait_for_queue(running, MODEL, 1)
            with stream(running, MODEL, max_tokens=4) as response:
                told = blocks(response)
                assert [place(next(told)) for _ in range(3)] == [2, 2, 2]
            assert wire.silent()
        answer = wire.answer()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_a_refusal_of_the_model_after_a_ping(waiting: Waiting) -> None:
    running = waiting.router
    with ExitStack() as busy:
        busy.enter_context(stream(running, MODEL, max_tokens=LONG))
        too_long = [{"role": "user", "content": "too long " * 1000}]
        with stream(running, MODEL, max_tokens=4, messages=too_long) as response:
            busy.close()
            wire, ended = read_to_the_end(response)
    assert not ended
    *pings, last = wire.removesuffix(b"\n\n").split(b"\n\n")
    assert all(map(is_ping, pings))
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_wait_that_is_given_up_after_a_ping(given_up: dict[str, tuple[bytes, bool]], name: str) -> None:
    wire, ended = given_up[name]
    assert not ended
    assert is_ping(wire.partition(b"\n\n")[0])
    assert f"{QUEUE_TIMEOUT:g} s" in ENDPOINTS[name].broken(wire)


def test_a_load_is_waited_for_with_pings(models: Models, tmp_path: Path) -> None:
    def entry(*flags: str) -> dict[str, object]:
        return {"model_path": str(models.chat), "flags": ["--ready-after", "0.5", *flags]}

    configured = {
        "slow-to-load": entry(),
        "crashing": entry("--exit-code", "1", "--exit-message", "failed to allocate CUDA0 buffer"),
    }
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, api={"stream_ping_sec": PING_SEC}, env=env) as running:
        with stream(running, "slow-to-load", max_tokens=2) as response:
            assert running.status("slow-to-load")["status"] == "loading"
            told = list(blocks(response))
        assert is_ping(told[0])
        assert told[-1] == b"data: [DONE]"
        loaded_in_vain(running)
        assert "Traceback" not in running.log


def loaded_in_vain(running: RunningRouter) -> None:
    """A stream is told in its own words why the load failed; a document gets the status."""
    with in_background() as pool:
        document = pool.submit(running.chat, "crashing")
        wire, ended = asked(running, CHAT, "crashing")
    assert not ended
    assert "failed to allocate CUDA0 buffer" in expect_broken_stream(wire)["message"]
    expect_error(document.result(), 500, 502, 503)
    assert document.result().headers["x-should-retry"] == "false"
