"""The embedded llama.cpp as a process: llama-server's behaviour, from a wheel."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from scripts.make_demo_models import DEMO_MODELS, HELLO, ModelSpec, write_model

pytestmark = pytest.mark.llama

REPOSITORY = Path(__file__).parents[2]
DEADLINE = 30.0
KEY = "a-key-for-this-test"
CHAT = {"messages": [{"role": "user", "content": "Wer bist du? 😀"}], "temperature": 0}


class Embedded:
    """One running server; `client` talks to it with its key."""

    def __init__(self, argv: Sequence[str], key: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router.backends.embedded", *argv],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={"LLAMA_API_KEY": key},
            cwd=REPOSITORY,
        )
        assert self.process.stderr is not None
        self._lines: queue.Queue[str] = queue.Queue()
        self._pump = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._pump.start()
        # llama.cpp writes its lines in pieces, so ours may stand in the middle of one of its own.
        self.address = self.wait_for(r"serving (http://\S+)$").group(1)
        self.client = httpx.Client(
            base_url=self.address, headers={"authorization": f"Bearer {key}"}, timeout=DEADLINE, trust_env=False
        )

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line of the log that has this; fails after DEADLINE."""
        while True:
            if found := re.search(pattern, self._lines.get(timeout=DEADLINE).rstrip("\n")):
                return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._pump.join(DEADLINE)
        if hasattr(self, "client"):
            self.client.close()


@contextmanager
def embedded(model: Path, *flags: str) -> Iterator[Embedded]:
    server = Embedded(["-m", str(model), "--port", "0", "-t", "1", *flags], KEY)
    try:
        yield server
    finally:
        server.close()


def failed(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "router.backends.embedded", *argv]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env={},
        cwd=REPOSITORY,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="module")
def chatter(folder: Path) -> Path:
    return write_model(folder / "chatter.gguf", DEMO_MODELS[0].spec)


@pytest.fixture(scope="module")
def letters(folder: Path) -> Path:
    return write_model(folder / "letters.gguf", ModelSpec(ctx=4096))


@pytest.fixture(scope="module")
def server(chatter: Path, folder: Path) -> Iterator[Embedded]:
    flags = ["-np", "2", "-c", "4096", "-a", "ünï/模型:q4", "--metrics", "--slot-save-path", str(folder), "--log-jsonl"]
    with embedded(chatter, *flags) as running:
        yield running


def test_chat_speaks_the_script(server: Embedded) -> None:
    answer = server.client.post("/v1/chat/completions", json=CHAT).json()
    assert answer["choices"][0]["message"]["content"] == " ".join(HELLO)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "ünï/模型:q4"


@pytest.mark.parametrize("temperature", [0.8, 2.0])
def test_sampling_keeps_to_whole_sentences(server: Embedded, temperature: float) -> None:
    answer = server.client.post("/v1/chat/completions", json=CHAT | {"temperature": temperature}).json()
    said = answer["choices"][0]["message"]["content"]
    for sentence in HELLO:
        said = said.replace(sentence, "")
    assert said.strip() == ""
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_stream(server: Embedded) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(deltas) == " ".join(HELLO)


def test_a_schema_is_followed(server: Embedded) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wish = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}}}
    answer = server.client.post("/v1/chat/completions", json=CHAT | {"response_format": wish, "max_tokens": 200}).json()
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["a"], bool)


@pytest.mark.parametrize("text", ["This is a demo", " Zwölf Boxkämpfer 😀", "a\n\tb  c "])
def test_the_tokenizer_loses_nothing(server: Embedded, text: str) -> None:
    tokens = server.client.post("/tokenize", json={"content": text}).json()["tokens"]
    assert server.client.post("/detokenize", json={"tokens": tokens}).json()["content"] == text


def test_props_slots_and_metrics(server: Embedded) -> None:
    props = server.client.get("/props").json()
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 2048)
    assert [slot["id"] for slot in server.client.get("/slots").json()] == [0, 1]
    assert "llamacpp:tokens_predicted_total" in server.client.get("/metrics").text


def test_slots_are_saved_and_restored(server: Embedded) -> None:
    server.client.post("/completion", json={"prompt": "This is", "n_predict": 3, "id_slot": 1})
    saved = server.client.post("/slots/1?action=save", json={"filename": "slot.bin"}).json()
    server.client.post("/slots/1?action=erase", json={})
    restored = server.client.post("/slots/1?action=restore", json={"filename": "slot.bin"}).json()
    assert restored["n_restored"] == saved["n_saved"] > 0


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
def test_the_key_from_the_environment_is_demanded(server: Embedded, headers: dict[str, str]) -> None:
    assert httpx.get(f"{server.address}/props", headers=headers, trust_env=False).status_code == 401
    assert httpx.get(f"{server.address}/health", headers=headers, trust_env=False).status_code == 200


def test_slots_left_out_means_four(letters: Path) -> None:
    with embedded(letters) as server:
        assert server.client.get("/props").json()["total_slots"] == 4


def test_embeddings(folder: Path) -> None:
    demo = DEMO_MODELS[2]
    with embedded(write_model(folder / demo.filename, demo.spec), *demo.flags) as server:
        inputs = ["the cat sat on the mat", "a cat sat on a mat", "x" * 1500]
        data = server.client.post("/v1/embeddings", json={"input": inputs}).json()["data"]
        assert [len(row["embedding"]) for row in data] == [demo.spec.embd] * 3
        assert sum(x * x for x in data[0]["embedding"]) == pytest.approx(1, abs=1e-3)


def test_rerank(letters: Path) -> None:
    with embedded(letters, "--rerank") as server:
        answer = server.client.post("/v1/rerank", json={"query": "a", "documents": ["b", "c", "d"]}).json()
        assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_even_while_it_streams(letters: Path, number: int) -> None:
    with embedded(letters, "-np", "1", "--context-shift") as server:
        endless = {"prompt": "x", "n_predict": -1, "stream": True, "ignore_eos": True}
        with server.client.stream("POST", "/completion", json=endless) as response:
            chunks = response.iter_bytes()
            next(chunks)
            assert server.stop(number) == 0
            with pytest.raises(httpx.TransportError):
                list(chunks)


class TestRefusals:
    def test_unknown_flag(self) -> None:
        done = failed("-m", "m.gguf", "--frobnicate")
        assert (done.returncode, done.stdout) == (1, "")
        assert "--frobnicate" in done.stderr

    def test_missing_model(self) -> None:
        done = failed("-m", "nowhere.gguf")
        assert done.returncode == 1
        assert done.stderr == "failed to open GGUF file 'nowhere.gguf': No such file or directory\n"

    def test_not_a_model(self, folder: Path) -> None:
        (folder / "text.gguf").write_text("hello")
        done = failed("-m", str(folder / "text.gguf"))
        assert done.returncode == 1
        assert done.stderr.endswith("it is not a GGUF file\n")

    def test_half_a_model(self, chatter: Path, folder: Path) -> None:
        half = folder / "half.gguf"
        half.write_bytes(chatter.read_bytes()[: chatter.stat().st_size // 2])
        done = failed("-m", str(half), "--port", "0")
        assert done.returncode == 1
        assert "corrupted or incomplete" in done.stderr
        assert "its own lines above say why\n" in done.stderr  # llama.cpp logs in a thread of its own

    def test_a_taken_port(self, server: Embedded, chatter: Path) -> None:
        done = failed("-m", str(chatter), "--port", str(httpx.URL(server.address).port))
        assert done.returncode == 1
        assert "couldn't bind HTTP server socket" in done.stderr


def test_help_and_version() -> None:
    shown = failed("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--slot-save-path PATH" in shown.stdout
    version = failed("--version")
    assert (version.returncode, version.stdout) == (0, "")
    assert version.stderr.startswith("version: ")
