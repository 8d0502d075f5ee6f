"""Clients that leave: what they held is free soon, and nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.support.dialects import CHAT
from tests.support.events import blocks
from tests.support.models import Models
from tests.support.observing import in_background, metric, read_to_the_end, stream, wait_for_queue, wait_for_status
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until
from tests.support.wire import Wire

pytestmark = pytest.mark.llama

LONG = 1900  # tokens: seconds of work
SOON_SEC = 1.0
PROMPT_SEC = 3.0  # llama-server looks each second of silence for who is gone; the whole prompt takes twice as long
TRIES = 3  # a machine may hiccup, a router must not need luck
ONE, TWO = "one-slot", "two-slots"


@pytest.fixture(scope="module")
def serving(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    # Small batches: llama-server looks between them whether anybody still wants the prompt read.
    configured = {
        ONE: models.entry("slow", "-np", "1", "-b", "8", "-ub", "8"),
        TWO: models.entry("slow", "-np", "2", "-c", "4096"),
    }
    with router(tmp_path_factory.mktemp("serving"), configured, system={"preload_models": ["*"]}) as running:
        for model in configured:
            wait_for_status(running, model, "ready")
        yield running
        assert running.process.poll() is None
        assert "Traceback" not in running.log


def slots(running: RunningRouter, model: str) -> list[dict[str, Any]]:
    """What the model's server says that it works on."""
    found: list[dict[str, Any]] = running.client.get("/slots", params={"model": model}).json()
    return [slot for slot in found if slot["is_processing"]]


def decoding(running: RunningRouter, model: str, count: int) -> Callable[[], bool]:
    """Whether so many slots have produced something."""
    return lambda: sum(slot["next_token"][0]["n_decoded"] > 0 for slot in slots(running, model)) == count


def first_token_at(running: RunningRouter, model: str) -> float:
    with stream(running, model, max_tokens=2) as response:
        next(blocks(response))
        return time.perf_counter()


def seconds_until_granted_again(running: RunningRouter, *, streamed: bool) -> float:
    """From the end of a client whose answer is being decoded to the first token of the next in line."""
    with in_background() as pool:
        with Wire(running.url) as wire:
            wire.post(CHAT.path, CHAT.body(ONE, LONG, stream=streamed))
            wait_until(decoding(running, ONE, 1), what="the first token")
            waiter = pool.submit(first_token_at, running, ONE)
            wait_for_queue(running, ONE, 1)
            left = time.perf_counter()
        return waiter.result() - left


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "document"])
def test_the_slot_is_granted_again(serving: RunningRouter, streamed: bool) -> None:
    took: list[float] = []
    while len(took) < TRIES and (not took or took[-1] >= SOON_SEC):
        took.append(seconds_until_granted_again(serving, streamed=streamed))
    assert 0 < took[-1] < SOON_SEC, took


def test_a_document_is_given_up_beside_a_stream(serving: RunningRouter) -> None:
    tokens = 900
    with stream(serving, TWO, max_tokens=tokens) as staying:
        (own,) = slots(serving, TWO)
        with Wire(serving.url) as wire:
            wire.post(CHAT.path, CHAT.body(TWO, LONG, stream=False))
            wait_until(decoding(serving, TWO, 2), what="both at work")
        wait_until(
            lambda: [slot["id_task"] for slot in slots(serving, TWO)] == [own["id_task"]],
            SOON_SEC,
            "the other's idle slot",
        )
        wait_until(lambda: metric(serving, "router_slots_busy", model=TWO) == 1, SOON_SEC, "the free slot")
        assert serving.chat(TWO).status_code == 200
        assert [slot["id_task"] for slot in slots(serving, TWO)] == [own["id_task"]], "the stream goes on"
        told = list(blocks(staying))
    assert told[-1] == b"data: [DONE]"
    assert sum(b'"delta":{"content":"' in block for block in told) >= tokens - 5, "some tokens are half a character"


def test_a_prompt_is_given_up(serving: RunningRouter) -> None:
    """Whoever asks its `/slots` breaks the silence that llama-server needs: nobody here, the router seldom."""
    with in_background() as pool:
        with Wire(serving.url) as wire:
            wire.post(CHAT.path, CHAT.body(ONE, 4, f"{uuid4().hex} " + "la " * 600))
            wait_until(lambda: bool(slots(serving, ONE)), what="the start of the prompt")
            waiter = pool.submit(first_token_at, serving, ONE)
            wait_for_queue(serving, ONE, 1)
            assert slots(serving, ONE)[0]["next_token"][0]["n_decoded"] == 0
            left = time.perf_counter()
        assert 0 < waiter.result() - left < PROMPT_SEC


def test_leaving_again_and_again_leaves_nothing_behind(serving: RunningRouter) -> None:
    def connections() -> int:
        return len(psutil.Process(serving.process.pid).net_connections("tcp"))

    assert serving.chat(TWO).status_code == 200
    before = connections()
    for number in range(20):
        with ExitStack() as clients:
            for streamed in (True, False):
                wire = clients.enter_context(Wire(serving.url))
                wire.post(CHAT.path, CHAT.body(TWO, LONG, stream=streamed))
            if number % 2:
                wait_until(lambda: len(slots(serving, TWO)) == 2, what="two at work")
    wait_until(lambda: metric(serving, "router_slots_busy", model=TWO) == 0, what="idle slots")
    wait_until(lambda: not slots(serving, TWO), what="the child's idle slots")
    wait_until(lambda: connections() <= before, what="the end of their connections")
    with stream(serving, TWO, max_tokens=4) as response:
        assert read_to_the_end(response)[1]


@pytest.mark.usefixtures("nothing_forwarded")
def test_half_a_body(running_router: RunningRouter) -> None:
    body = b'{"model": "chat", "messages": [{"role": "user", "content": "'
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
        b"Content-Type: application/json\r\n%s\r\n\r\n%s"
    )
    for framing, sent in (
        (b"Content-Length: 1000", body),
        (b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(body), body)),
        (b"Transfer-Encoding: chunked", b"ff\r\n" + body),
        (b"Content-Length: 1000", b""),
    ):
        with Wire(running_router.url) as wire:
            wire.send(head % (framing, sent))
        assert running_router.client.get("/health").status_code == 200
