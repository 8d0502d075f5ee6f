"""Models' servers that die at work, and clients that stop reading."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import openai
import psutil
import pytest

from tests.fakes.fake_binary import make_fake_binary
from tests.support.dialects import CHAT, ENDPOINTS
from tests.support.expect import expect_error, expect_retry_after
from tests.support.models import Models
from tests.support.observing import (
    in_background,
    kill_child,
    loads,
    metric,
    read_to_the_end,
    stream,
    wait_for_status,
)
from tests.support.recording_llama_server import make_recording_binary
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until
from tests.support.wire import Wire

pytestmark = [pytest.mark.llama, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]

LONG = 1000  # tokens: seconds of work
MODEL = "slow"
MOST_ATTEMPTS = 3
SOON_RESTARTED = {"restart_grace_sec": 0.001}
READERS = 4
SEND_TIMEOUT = 1.0
MIB = 1024**2


def busy_slots(running: RunningRouter) -> int:
    return sum(slot["is_processing"] for slot in running.client.get("/slots", params={"model": MODEL}).json())


@pytest.fixture(scope="module")
def mortal(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router whose child, once killed, is there again at once."""
    slots = len(ENDPOINTS) + 2
    # Small batches: llama-server tells of its slots between them.
    flags = ("-np", str(slots), "-c", str(slots * 2048), "-b", "32", "-ub", "32")
    configured = {MODEL: models.entry("slow", *flags)}
    with router(tmp_path_factory.mktemp("mortal"), configured, system=SOON_RESTARTED) as running:
        assert running.chat(MODEL).status_code == 200
        yield running
        assert running.process.poll() is None
        assert "Traceback" not in running.log


@dataclass(frozen=True)
class Broken:
    """What became of the streams of all endpoints whose child was killed amid them.

    Attributes:
        wires: the bytes of each, and whether it ended as HTTP says.
        sdk: what openai-python raised, if anything.
    """

    wires: dict[str, tuple[bytes, bool]]
    sdk: BaseException | None


@pytest.fixture(scope="module")
def broken(mortal: RunningRouter) -> Broken:
    with ExitStack() as clients:
        responses = {  # each is there with its first byte
            name: clients.enter_context(mortal.client.stream("POST", each.path, json=each.body(MODEL, LONG)))
            for name, each in ENDPOINTS.items()
        }
        client = clients.enter_context(openai.OpenAI(base_url=f"{mortal.url}/v1", api_key="any"))
        chunks = client.chat.completions.create(
            model=MODEL, max_tokens=LONG, stream=True, messages=[{"role": "user", "content": "Hi"}]
        )
        assert next(chunks).choices
        kill_child(mortal, MODEL)
        return Broken({name: read_to_the_end(response) for name, response in responses.items()}, raised_by(chunks))


def raised_by(chunks: Iterable[object]) -> BaseException | None:
    try:
        for _ in chunks:
            pass
    except Exception as error:  # noqa: BLE001  whatever it is, it is what the test is about
        return error
    return None


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_stream_says_in_its_own_words_that_it_broke(broken: Broken, name: str) -> None:
    wire, ended = broken.wires[name]
    assert not ended, "closed without the end of the body"
    assert wire.count(b"data: ") > 1
    assert ENDPOINTS[name].broken(wire)


def test_openai_python_raises(broken: Broken) -> None:
    assert isinstance(broken.sdk, openai.APIError), broken.sdk
    assert broken.sdk.message


def test_what_nobody_has_heard_of_yet_is_asked_again(mortal: RunningRouter) -> None:
    """A document in the middle of its generation, and a stream in the middle of its prompt."""
    wait_for_status(mortal, MODEL, "ready")
    before = loads(mortal, MODEL)
    tokens, prompt = 300, f"{uuid4().hex} " + "la " * 400
    with in_background(2) as pool:
        document = pool.submit(mortal.chat, MODEL, max_tokens=tokens)
        streamed = pool.submit(whole_stream, mortal, prompt)
        wait_until(lambda: busy_slots(mortal) == 2, what="two at work")
        kill_child(mortal, MODEL)
        answer = document.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] == tokens
    assert streamed.result().endswith(CHAT.end + b"\n\n")
    assert streamed.result().count(b'"role":"assistant"') == 1
    assert b"error" not in streamed.result()
    assert loads(mortal, MODEL) == before + 1


def whole_stream(running: RunningRouter, prompt: str) -> bytes:
    with running.client.stream("POST", CHAT.path, json=CHAT.body(MODEL, 8, prompt)) as response:
        assert response.status_code == 200
        wire, ended = read_to_the_end(response)
    assert ended
    return wire


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "document"])
def test_a_child_that_dies_of_it_each_time(models: Models, tmp_path: Path, streamed: bool) -> None:
    fake = make_fake_binary(tmp_path, "--crash-after-tokens", "0", name="fake")
    recording = make_recording_binary(tmp_path, tmp_path / "records", str(fake))
    marker = uuid4().hex
    configured = {MODEL: {"model_path": str(models.chat)}}
    env = {"LLAMA_SERVER_PATH": str(recording)}
    with router(tmp_path, configured, system=SOON_RESTARTED, env=env) as running:
        body = {"model": MODEL, "prompt": marker, "stream": streamed}
        refused = running.client.post("/v1/completions", json=body)
        expect_error(refused, 502, 503)
        if refused.status_code == 502:
            assert refused.headers["x-should-retry"] == "false"
        else:
            expect_retry_after(refused)
        asked = [path for path in (tmp_path / "records").glob("*.request") if marker.encode() in path.read_bytes()]
        assert 1 < len(asked) <= MOST_ATTEMPTS
        assert "Traceback" not in running.log


def test_a_reader_that_stops_costs_little_and_is_let_go(models: Models, tmp_path: Path) -> None:
    """More than the kernel's buffers hold, from a model that never tires."""
    configured = {
        MODEL: {"model_path": str(models.chat), "flags": ["-np", str(READERS), "--tokens", "10000000"]},
    }
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    with router(tmp_path, configured, api={"send_timeout_sec": SEND_TIMEOUT}, env=env) as running:
        router_process = psutil.Process(running.process.pid)
        with stream(running, MODEL, max_tokens=5000) as response:
            assert read_to_the_end(response)[1]
        assert busy(running) == 0
        before = most = router_process.memory_info().rss
        with ExitStack() as clients:
            readers = [clients.enter_context(Wire(running.url, buffer=4096)) for _ in range(READERS)]
            began = time.perf_counter()
            for reader in readers:
                reader.post(CHAT.path, {**CHAT.body(MODEL, 0), "max_tokens": None})
                assert reader.read().startswith(b"HTTP/1.1 200 ")
            while busy(running):
                most = max(most, router_process.memory_info().rss)
                assert time.perf_counter() - began < 20, "their slots are still held"
            assert time.perf_counter() - began > SEND_TIMEOUT
            assert most - before <= READERS * MIB
            assert not any(ends_whole(reader) for reader in readers)
        assert running.chat(MODEL).status_code == 200
        assert "Traceback" not in running.log


def busy(running: RunningRouter) -> float:
    return metric(running, "router_slots_busy", model=MODEL)


def ends_whole(reader: Wire) -> bool:
    """Whether what the kernel still has for the reader ends like a whole answer."""
    last = b""
    try:
        while True:
            last = (last + reader.read())[-64:]
    except (EOFError, ConnectionResetError):
        return last.endswith(b"0\r\n\r\n") or b"[DONE]" in last
