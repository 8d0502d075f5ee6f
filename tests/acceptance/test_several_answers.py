"""A request for several answers waits for as many slots, and gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dialects import CHAT
from tests.support.models import Models
from tests.support.observing import in_background, stream, wait_for_queue, wait_for_status
from tests.support.router import router

pytestmark = pytest.mark.llama

MODEL = "two-slots"


def test_more_answers_than_slots_load_nothing(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {MODEL: models.entry("slow", "-np", "2")}) as running:
        answer = running.client.post(CHAT.path, json=CHAT.body(MODEL, 4, stream=False) | {"n": 3})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
        assert running.client.get("/v1/queue/stats").json()["models"][MODEL]["slots"] == 0, "none is there"


def test_several_prompts_take_a_slot_each(models: Models, tmp_path: Path) -> None:
    configured = {MODEL: models.entry("slow", "-np", "2")}
    with router(tmp_path, configured, system={"preload_models": [MODEL]}) as running, in_background(1) as pool:
        wait_for_status(running, MODEL, "ready")

        def complete() -> int:
            body = {"model": MODEL, "prompt": ["one", "two", "three"], "max_tokens": 2}
            answer = running.client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            return len(answer.json()["choices"])

        with stream(running, MODEL, max_tokens=1900):
            all_three = pool.submit(complete)
            wait_for_queue(running, MODEL, 1)
            assert not all_three.done(), "a slot is free, and it takes two"
        assert all_three.result() == 3


def test_it_waits_for_all_its_slots_and_is_not_passed_by(models: Models, tmp_path: Path) -> None:
    configured = {MODEL: models.entry("slow", "-np", "2")}
    with router(tmp_path, configured, system={"preload_models": [MODEL]}) as running, in_background(2) as pool:
        wait_for_status(running, MODEL, "ready")

        def ask(n: int) -> int:
            body = CHAT.body(MODEL, 4, stream=False) | {"n": n}
            answer = running.client.post(CHAT.path, json=body)
            assert answer.status_code == 200, answer.text
            return len(answer.json()["choices"])

        with stream(running, MODEL, max_tokens=1900):
            both = pool.submit(ask, 2)
            wait_for_queue(running, MODEL, 1)
            one = pool.submit(ask, 1)
            wait_for_queue(running, MODEL, 2)
            waiting = running.client.get("/v1/queue/stats").json()["models"][MODEL]
            assert (waiting["busy"], waiting["slots"], waiting["waits_for"]) == (1, 2, "no slot")
            assert waiting["expected_wait_sec"] > 0
            assert not both.done()
            assert not one.done(), "it would fit, but stands behind"
        assert both.result() == 2
        assert one.result() == 1
        assert running.client.get("/readyz").status_code == 200
