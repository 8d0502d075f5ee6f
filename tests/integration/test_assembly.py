"""An answer put together out of a stream is the answer that the same llama.cpp gives without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.proxy.assembly import Assembly, plan
from router.proxy.detour import Untold
from scripts.make_demo_models import ModelSpec, write_model
from tests.fakes.sink import RecordingSink
from tests.support.models import FLAGS, Models
from tests.support.router import ROOT, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.llama

# Thinks and calls tools the way many models do, so that llama.cpp finds out how to read both.
TEMPLATE = """{%- if tools %}<|im_start|>system
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}
<think>
{{ message.reasoning_content }}
</think>

{%- endif %}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call> {"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""

ASK = [{"role": "user", "content": "Grüß dich, 模型 😀"}]
WORDS = 'root ::= "Zu \\"zweit\\"\\n" [a-f]{5,40} "\\\\t — 模型 😀é€" [0-9]{3} "<br>&amp;\\u007f"'
THOUGHT = 'root ::= "<think>\\n" [a-f ]{10,30} "😀\\n</think>\\n\\n" [g-m ]{10,30}'
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "number"}, "ok": {"type": "boolean"}},
    "required": ["name", "size", "ok"],
}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": SCHEMA}}


# What the models for tools say: the template makes calls of it.
CALL = '<tool_call> {"name": "%s", "arguments": {"name": "Zürich 😀", "size": 1.50, "ok": %s}}</tool_call>'
SCRIPTS = {
    "caller": f"<think> I must look it up, 模型. </think> Let me see. {CALL % ('get_weather', 'true')}",
    "two-calls": f"Both: {CALL % ('get_weather', 'true')} {CALL % ('get_weather_tomorrow', 'false')}",
}
NAMES = ("get_weather", "get_weather_tomorrow")
TOOLS = {"tools": [tool(name) for name in NAMES]}
BLOCKS = {"tools": [{"name": name, "description": "Does it.", "input_schema": SCHEMA} for name in NAMES]}
FLAT = {"tools": [{"type": "function", **tool(name)["function"]} for name in NAMES], "parallel_tool_calls": True}
LONG = {"max_tokens": 300}

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("chatter", "/v1/chat/completions", {}),
    "chat-cut": ("chat", "/v1/chat/completions", LONG),
    "chat-unicode": ("chat", "/v1/chat/completions", {"grammar": WORDS}),
    "chat-emoji-first": ("chat", "/v1/chat/completions", {"grammar": 'root ::= "😀" [a-c]{3}'}),
    "chat-one-token": ("chat", "/v1/chat/completions", {"grammar": 'root ::= "a"'}),
    "chat-empty": ("chat", "/v1/chat/completions", {"grammar": 'root ::= ""'}),
    "chat-schema": (
        "chat", "/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    ),
    "chat-stop": ("chat", "/v1/chat/completions", {"stop": ["é"], "grammar": WORDS}),
    "chat-timings": ("chat", "/v1/chat/completions", {**LONG, "timings_per_token": True, "return_progress": True}),
    "chat-falsy": (
        "chat", "/v1/chat/completions",
        {"grammar": WORDS, "logprobs": False, "n": 1, "stream": False, "stop": [], "stream_options": None},
    ),
    "chat-thinking": ("thinker", "/v1/chat/completions", {"grammar": THOUGHT}),
    "chat-thinking-only": ("thinker", "/v1/chat/completions", {**LONG, "grammar": 'root ::= "<think>" [a-f ]+'}),
    "chat-tools": ("caller", "/v1/chat/completions", TOOLS),
    "chat-tools-in-parallel": ("two-calls", "/v1/chat/completions", {**TOOLS, "parallel_tool_calls": True}),
    "chat-tools-required": ("two-calls", "/v1/chat/completions", {**TOOLS, "tool_choice": "required"}),
    "chat-tools-unused": ("caller", "/v1/chat/completions", {**TOOLS, "tool_choice": "none"}),
    "chat-tools-cut": ("thinker", "/v1/chat/completions", {**TOOLS, **LONG}),
    "text": ("chatter", "/v1/completions", {"prompt": "Hi"}),
    "text-cut": ("chat", "/v1/completions", {"prompt": "Hi", **LONG}),
    "text-tokens": ("chat", "/v1/completions", {"prompt": [300, 301, 302], **LONG}),
    "text-unicode": ("chat", "/v1/completions", {"prompt": "Hi", "grammar": WORDS}),
    "text-stop": ("chat", "/v1/completions", {"prompt": "Hi", "grammar": WORDS, "stop": "€"}),
    "text-stop-half": ("chat", "/v1/completions", {"prompt": "Hi", "grammar": WORDS, "stop": ["€~~", "zz", "é€"]}),
    "text-stop-cut": ("chat", "/v1/completions", {"prompt": "Hi", "stop": ["~~~~", "never"], **LONG}),
    "own-stop": ("chat", "/completion", {"prompt": "Hi", "grammar": WORDS, "stop": ["🙂", "模型"]}),
    "text-empty": ("chat", "/v1/completions", {"prompt": "Hi", "grammar": 'root ::= ""'}),
    "own": ("chat", "/completion", {"prompt": "Hi", "n_predict": 300}),
    "own-unicode": ("chat", "/completions", {"prompt": {"prompt_string": "Hi 😀"}, "grammar": WORDS}),
    "own-settings": (
        "chat", "/completion",
        {"prompt": "Hi", "grammar": WORDS, "logit_bias": [[300, 0.1]], "dynatemp_range": 1e-7, "json_schema": None},
    ),
    "messages": ("chatter", "/v1/messages", {"max_tokens": 1000}),
    "messages-cut": ("chat", "/v1/messages", LONG),
    "messages-stop": ("chat", "/v1/messages", {**LONG, "stop_sequences": ["K"]}),
    "messages-tools": ("caller", "/v1/messages", {"max_tokens": 1000, **BLOCKS}),
    "messages-tools-in-parallel": ("two-calls", "/v1/messages", {"max_tokens": 1000, **BLOCKS}),
    "messages-thinking-cut": ("thinker", "/v1/messages", {**LONG, "thinking": {"type": "enabled"}}),
    "responses": ("chatter", "/v1/responses", {"input": "Hi"}),
    "responses-cut": ("chat", "/v1/responses", {"input": ASK, "max_output_tokens": 300}),
    "responses-thinking": ("thinker", "/v1/responses", {"input": "Hi", "grammar": THOUGHT}),
    "responses-tools": ("caller", "/v1/responses", {"input": "Hi", **FLAT}),
    "responses-tools-in-parallel": ("two-calls", "/v1/responses", {"input": "Hi", **FLAT}),
    "chat-too-long": ("chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 5000}]}),
    "messages-too-long": ("chat", "/v1/messages", {**LONG, "messages": [{"role": "user", "content": "x" * 5000}]}),
    "chat-bad-grammar": ("chat", "/v1/chat/completions", {"grammar": "root ::= ("}),
    "text-bad-type": ("chat", "/v1/completions", {"prompt": "Hi", "temperature": "warm"}),
}  # fmt: skip
# Not the same twice, or the time it took.
_OWN = {"id", "call_id", "created", "created_at", "completed_at", "timings"}


@contextmanager
def llama_server(model: Path, *flags: str) -> Iterator[httpx.Client]:
    """A llama.cpp of its own for this model, with one slot, so that two requests find the same state."""
    binary = os.environ.get("LLAMA_SERVER_PATH")
    program = [binary] if binary else [sys.executable, "-m", "router.backends.embedded"]
    port = free_port()
    command = [*program, "-m", str(model), "--alias", "m", "--port", str(port), *FLAGS, "-np", "1", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # It ends the connection after every stream, whatever it promises.
    headers = {"connection": "close"}
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)

    def ready() -> bool:
        assert process.poll() is None, "llama.cpp ended by itself"
        try:
            return client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, 30, "llama.cpp")
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def servers(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, httpx.Client]]:
    folder = tmp_path_factory.mktemp("assembly")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    flags = ("--jinja", "--chat-template-file", str(template))
    with ExitStack() as stack:
        found = {kind: stack.enter_context(llama_server(getattr(models, kind))) for kind in ("chat", "chatter")}
        found["thinker"] = stack.enter_context(llama_server(models.chat, *flags))
        for name, script in SCRIPTS.items():
            spec = ModelSpec(name=name, style="chatter", embd=128, script=(script,))
            found[name] = stack.enter_context(llama_server(write_model(folder / f"{name}.gguf", spec), *flags))
        yield found


def stream(
    client: httpx.Client,
    path: str,
    assembly: Assembly,
    received: RecordingSink,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    sink = assembly.sink(received, on_progress)
    with client.stream("POST", path, content=assembly.body) as response:
        sink.head(response.status_code, [(name.lower(), value) for name, value in response.headers.raw])
        for chunk in response.iter_raw():
            sink.body(chunk)
    sink.end()


def assembled(client: httpx.Client, path: str, body: bytes) -> tuple[int, bytes]:
    """The answer as the router makes it."""
    assembly = plan(path, body, n=None, max_tokens=None)
    assert assembly is not None
    received, progress = RecordingSink(), list[None]()
    stream(client, path, assembly, received, lambda: progress.append(None))
    assert received.outcome == "end", received.reason
    assert dict(received.headers)[b"content-type"] == b"application/json; charset=utf-8"
    assert dict(received.headers)[b"content-length"] == str(len(received.content)).encode()
    if received.status == 200:
        assert progress, "the lease was never told of the stream's progress"
    return received.status, received.content


@pytest.mark.parametrize(("model", "path", "fields"), CASES.values(), ids=CASES)
def test_it_is_the_answer_that_was_asked_for(
    servers: Mapping[str, httpx.Client], model: str, path: str, fields: dict[str, Any]
) -> None:
    chat = path.endswith(("chat/completions", "messages"))
    asked = {**({"messages": ASK} if chat else {}), "temperature": 0, "seed": 7, "cache_prompt": False, **fields}
    body, client = json.dumps(asked, indent=1).encode() + b"\n", servers[model]
    client.post(path, content=body)  # a prompt that is cached counts otherwise
    direct = client.post(path, content=body)
    status, content = assembled(client, path, body)
    assert (status, plain(content)) == (direct.status_code, plain(direct.content))


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_text_held_back_at_the_end_is_missed(servers: Mapping[str, httpx.Client], path: str) -> None:
    """Both of the last two characters might have been the beginning of a stop word."""
    client, asked = servers["chat"], {"prompt": "Hi", "max_tokens": 300, "temperature": 0}
    answer = client.post("/completion", json=asked).json()["content"]
    body = json.dumps({**asked, "stop": [answer[-2:] + "~~~"]}).encode()
    assembly, received = plan(path, body, n=None, max_tokens=None), RecordingSink()
    assert assembly is not None
    stream(client, path, assembly, received)
    assert received.outcome == "broke"
    assert isinstance(received.error, Untold), "so that the next attempt is no stream"


def test_tools_are_really_called(servers: Mapping[str, httpx.Client]) -> None:
    """Else the cases above compare nothing but text."""
    called = {}
    for model in SCRIPTS:
        body = json.dumps({"messages": ASK, "temperature": 0, **TOOLS, "parallel_tool_calls": True}).encode()
        message = json.loads(assembled(servers[model], "/v1/chat/completions", body)[1])["choices"][0]["message"]
        called[model] = [call["function"]["name"] for call in message["tool_calls"]]
        assert bool(message.get("reasoning_content")) == (model == "caller")
    assert called == {"caller": ["get_weather"], "two-calls": ["get_weather", "get_weather_tomorrow"]}


def test_its_slot_is_free_as_soon_as_its_client_leaves(models: Models) -> None:
    ask = {"messages": ASK, "max_tokens": 7000, "temperature": 0}
    assembly = plan("/v1/chat/completions", json.dumps(ask).encode(), n=None, max_tokens=None)
    assert assembly is not None
    with llama_server(models.slow, "-np", "2", "-c", "16384", "--slots") as client:

        def busy() -> int:
            return sum(slot["is_processing"] for slot in client.get("/slots").json())

        with client.stream("POST", "/v1/chat/completions", json={**ask, "stream": True}) as other:
            tokens = other.iter_lines()
            next(tokens)
            with client.stream("POST", "/v1/chat/completions", content=assembly.body) as abandoned:
                next(abandoned.iter_lines())
                wait_until(lambda: busy() == 2, what="both at work")
            wait_until(lambda: busy() == 1, 1.0, "the slot of the one that has left")
            assert next(tokens) is not None


def plain(content: bytes) -> str:
    """A document with all that no two answers share made alike; the order of keys stays."""
    return json.dumps(json.loads(content, object_pairs_hook=_plain_pairs), indent=1, ensure_ascii=False)


def _plain_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: _shape(value) if key in _OWN else value for key, value in pairs}


def _shape(value: Any) -> Any:
    return list(value) if isinstance(value, dict) else type(value).__name__
