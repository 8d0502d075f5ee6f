"""What is asked and answered is logged for those alone who want it, and never whole or with keys."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from router.config import ApiConfig
from router.telemetry.logs import forget, redact
from tests.fakes.site import Site, site

ASKED, ANSWERED = "What is the secret of the pyramids?", "They are hollow."
KEYS = ("sk-proj-0123456789", "hf_abcdefghijkl", "Bearer eyJhbGciOi.J9")


def body(text: str = ASKED, **more: object) -> bytes:
    return json.dumps({"model": "chat", "messages": [{"role": "user", "content": text}], **more}).encode()


def answers(router: Site, text: str = json.dumps({"content": ANSWERED})) -> None:
    router.upstream.script = lambda heard, wire: wire.answer(text.encode())


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "router.prompts"]


async def test_nothing_is_logged_unless_it_is_asked_for(router: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers(router)
    await router.chat(body())
    await router.chat(body()[:-1])
    assert ASKED not in caplog.text + router.written.getvalue()
    assert ANSWERED not in caplog.text


async def test_the_beginning_of_both_is_logged_by_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with site(tmp_path, api=ApiConfig(log_prompts=True)) as router:
        answers(router)
        answer = await router.chat(body(), x_request_id="seven")
        assert answer.json() == {"content": ANSWERED}
        asked, answered = told(caplog)
        assert asked == f"Request seven asks chat: {body().decode()}"
        assert answered == f"Request seven was answered: {answer.text}"


async def test_both_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with site(tmp_path, api=ApiConfig(log_prompts=True)) as router:
        router.upstream.script = lambda heard, wire: wire.answer(b"a" * 50_000)
        assert (await router.chat(body("q" * 50_000))).content == b"a" * 50_000
    asked, answered = told(caplog)
    assert asked.endswith("q…")
    assert len(asked) < 2100
    assert answered.partition(": ")[2] == "a" * 2000 + "…"


async def test_what_looks_like_a_key_is_blotted_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with site(tmp_path, api=ApiConfig(log_prompts=True)) as router:
        router.upstream.script = lambda heard, wire: wire.answer(f'"{" ".join(KEYS)} risk-taking"'.encode())
        await router.chat(body(f"My keys are {' and '.join(KEYS)}; sk-8 is a road, task-oriented."))
    asked, answered = told(caplog)
    assert not any(key in asked + answered for key in KEYS)
    assert "My keys are [redacted] and [redacted] and [redacted]; sk-8 is a road, task-oriented." in asked
    assert answered.endswith('"[redacted] [redacted] [redacted] risk-taking"')


@pytest.mark.parametrize("key", ["sk-proj-0123456789", "plain key of the router"])
async def test_a_key_that_the_cut_goes_through_is_blotted_out_too(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    redact("plain key of the router")
    try:
        async with site(tmp_path, api=ApiConfig(log_prompts=True)) as router:
            for shown in (1, 3, len(key) - 1):
                filling = "." * (2000 - shown)
                answers(router, f"{filling}{key} and more")
                await router.chat(body(filling[len(body()) - len(ASKED) - len('"}]}') :] + key))
    finally:
        forget("plain key of the router")
    lines = told(caplog)
    assert len(lines) == 6
    for line in lines:
        assert line.rpartition(".")[2].startswith("["), line


async def test_a_request_that_nobody_answers_has_its_lines_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with site(tmp_path, api=ApiConfig(log_prompts=True)) as router:
        router.upstream.script = lambda heard, wire: wire.answer(b'{"error":{"message":"no"}}', status="400 No")
        await router.chat(body())
    assert len(told(caplog)) == 2
