"""A stream goes in, a document comes out; what these streams look like is llama-server's doing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.proxy.assembly.chat import Chat
from router.proxy.assembly.document import Document
from router.proxy.assembly.messages import Messages
from router.proxy.assembly.responses import Responses
from router.proxy.assembly.sink import AssemblingSink
from router.proxy.assembly.text import OwnText, Text
from router.proxy.detour import Untold
from router.wire.sink import ConnectionBroken, RawHeaders
from tests.fakes.sink import RecordingSink

SSE: RawHeaders = [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")]
COMMON = '"created":7,"id":"chatcmpl-1","model":"m","system_fingerprint":"b1"'
TIMINGS = '{"prompt_ms":0.30000001192092896,"predicted_per_second":1e+22,"n":12345678901234567890123}'
DONE = b"data: [DONE]\n\n"


def data(text: str, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def delta(fields: str, finish: str = "null") -> bytes:
    choice = f'{{"finish_reason":{finish},"index":0,"delta":{fields}}}'
    return data(f'{{"choices":[{choice}],{COMMON},"object":"chat.completion.chunk"}}')


def usage(tokens: int | str = 9) -> bytes:
    counted = f'"usage":{{"completion_tokens":{tokens},"prompt_tokens":2}},"timings":{TIMINGS}'
    return data(f'{{"choices":[],{COMMON},"object":"chat.completion.chunk",{counted}}}')


CHAT = b"".join((
    b":\n\n",
    delta('{"role":"assistant","content":null}'),
    delta('{"reasoning_content":"Hm, "}'), delta('{"reasoning_content":"模"}'),
    delta('{"content":"Gr\\u00fc\\"\\n"}'), delta('{"content":"😀"}'),
    delta('{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"get"}}]}'),
    delta('{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"get_it","arguments":"{"}}]}'),
    delta('{"tool_calls":[{"index":0,"function":{"arguments":"\\"x\\":1.50}"}}]}'),
    delta('{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"put","arguments":"{}"}}]}'),
    delta("{}", '"tool_calls"'), usage(), DONE,
))  # fmt: skip
CHAT_DOCUMENT = (
    '{"choices":[{"finish_reason":"tool_calls","index":0,"message":{"role":"assistant","content":"Grü\\"\\n😀",'
    '"reasoning_content":"Hm, 模","tool_calls":['
    '{"type":"function","function":{"name":"get_it","arguments":"{\\"x\\":1.50}"},"id":"a"},'
    '{"type":"function","function":{"name":"put","arguments":"{}"},"id":"b"}]}}],'
    '"created":7,"model":"m","system_fingerprint":"b1","object":"chat.completion",'
    f'"usage":{{"completion_tokens":9,"prompt_tokens":2}},"id":"chatcmpl-1","timings":{TIMINGS}}}'
)


def text_chunk(text: str, rest: str) -> bytes:
    return data(f'{{"choices":[{{"text":"{text}","index":0,"logprobs":null,{rest},"object":"text_completion"}}')


TEXT = b"".join((
    text_chunk("Gr", f'"finish_reason":null}}],{COMMON}'), text_chunk("ü 😀", f'"finish_reason":null}}],{COMMON}'),
    text_chunk("", f'"finish_reason":"stop"}}],{COMMON},"usage":{{"completion_tokens":2}},"timings":{TIMINGS}'), DONE,
))  # fmt: skip
TEXT_DOCUMENT = (
    '{"choices":[{"text":"Grü 😀","index":0,"logprobs":null,"finish_reason":"stop"}],'
    f'{COMMON},"usage":{{"completion_tokens":2}},"timings":{TIMINGS},"object":"text_completion"}}'
)
OWN = b"".join((
    data('{"index":0,"content":"Gr","tokens":[1],"stop":false}'), data('{"index":0,"content":"ü","stop":false}'),
    data('{"index":0,"content":"","tokens":[],"stop":true,"generation_settings":{"seed":1,"min_p":0.05000000074505806,'
         f'"stream":true,"lora":[]}},"prompt":"<s> Hi","timings":{TIMINGS}}}'),
))  # fmt: skip
OWN_DOCUMENT = (
    '{"index":0,"content":"Grü","tokens":[],"stop":true,"generation_settings":{"seed":1,"min_p":0.05000000074505806,'
    f'"stream":false,"lora":[]}},"prompt":"<s> Hi","timings":{TIMINGS}}}'
)


def told(kind: str, **fields: Any) -> bytes:
    return data(json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":")), kind)


def block(index: int, **fields: Any) -> bytes:
    return told("content_block_delta", index=index, delta=fields)


START = told("message_start", message={
    "id": "m1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
    "stop_sequence": None, "usage": {"cache_read_input_tokens": 3, "input_tokens": 4, "output_tokens": 0},
})  # fmt: skip
TOOL = told("content_block_start", index=2, content_block={"type": "tool_use", "id": "t", "name": "get"})
MESSAGES = b"".join((
    START, told("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
    block(0, type="thinking_delta", thinking="Hm"), block(1, type="text_delta", text="Grü"),
    block(1, type="text_delta", text=" 😀"), TOOL, block(2, type="input_json_delta", partial_json='{"x": 1.50, "n": '),
    TOOL, block(2, type="input_json_delta", partial_json="12345678901234567890123}"),
    told("content_block_start", index=3, content_block={"type": "tool_use", "id": "u", "name": "put"}),
    block(3, type="input_json_delta", partial_json='{"cut'), block(0, type="signature_delta", signature=""),
    told("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 5}),
    told("message_stop"),
))  # fmt: skip
MESSAGES_DOCUMENT = (
    '{"id":"m1","type":"message","role":"assistant","content":[{"type":"thinking","thinking":"Hm","signature":""},'
    '{"type":"text","text":"Grü 😀"},'
    '{"type":"tool_use","id":"t","name":"get","input":{"x":1.5,"n":12345678901234567890123}},'
    '{"type":"tool_use","id":"u","name":"put","input":{}}],"model":"m","stop_reason":"tool_use","stop_sequence":null,'
    '"usage":{"cache_read_input_tokens":3,"input_tokens":4,"output_tokens":5}}'
)
RESPONSES = b"".join((
    told("response.created", response={"id": "r", "status": "in_progress"}),
    told("response.output_text.delta", item_id="i", delta="Grü"),
    told("response.completed", response={
        "id": "r", "object": "response", "created_at": 7, "status": "completed", "model": "m", "output": [
            {"id": "rs", "summary": [], "type": "reasoning", "content": [], "encrypted_content": ""},
            {"type": "message", "status": "completed", "id": "i", "content": [{"text": "Grü"}], "role": "assistant"},
            {"id": "f", "type": "function_call", "status": "completed", "arguments": "{}", "call_id": "c", "name": "g"},
        ], "usage": {"output_tokens": 5}},
    ),
))  # fmt: skip
RESPONSES_DOCUMENT = (
    '{"completed_at":7,"created_at":7,"id":"r","model":"m","object":"response","output":['
    '{"id":"rs","summary":[],"type":"reasoning","content":[],"encrypted_content":"","status":"completed"},'
    '{"content":[{"text":"Grü"}],"id":"i","role":"assistant","status":"completed","type":"message"},'
    '{"id":"f","type":"function_call","status":"completed","arguments":"{}","call_id":"c","name":"g"}],'
    '"status":"completed","usage":{"output_tokens":5}}'
)
STREAMS: dict[str, tuple[type[Document], bytes, str]] = {
    "chat": (Chat, CHAT, CHAT_DOCUMENT),
    "text": (Text, TEXT, TEXT_DOCUMENT),
    "own": (OwnText, OWN, OWN_DOCUMENT),
    "messages": (Messages, MESSAGES, MESSAGES_DOCUMENT),
    "responses": (Responses, RESPONSES, RESPONSES_DOCUMENT),
}


def raising(*_: object) -> None:
    raise RuntimeError


class Setup:
    """A sink over another, and what it said."""

    def __init__(self, document: Document, **options: Any) -> None:
        self.inner = RecordingSink()
        self.progress = 0
        self.sink = AssemblingSink(document, self.inner, on_progress=self._note_progress, **options)

    def stream(self, *chunks: bytes) -> RecordingSink:
        self.sink.head(200, SSE)
        for chunk in chunks:
            self.sink.body(chunk)
        return self.inner

    def _note_progress(self) -> None:
        self.progress += 1


@pytest.mark.parametrize(("document", "stream", "expected"), STREAMS.values(), ids=STREAMS)
def test_the_document_is_that_of_llama_server(document: type[Document], stream: bytes, expected: str) -> None:
    setup = Setup(document())
    inner = setup.stream(stream)
    assert inner.order == [], "nothing is known before the end"
    setup.sink.end()
    assert inner.content.decode() == expected
    assert inner.order == ["head", "body", "end"]
    assert inner.status == 200
    length = str(len(expected.encode())).encode()
    assert inner.headers == [(b"content-type", b"application/json; charset=utf-8"), (b"content-length", length)]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("document", "stream", "expected"), STREAMS.values(), ids=STREAMS)
def test_it_does_not_matter_how_the_stream_is_cut(
    document: type[Document], stream: bytes, expected: str, newline: bytes
) -> None:
    stream = stream.replace(b"\n", newline)
    for size in (1, 2, 7, 64):
        setup = Setup(document())
        setup.stream(*(stream[start : start + size] for start in range(0, len(stream), size)))
        setup.sink.end()
        assert setup.inner.content.decode() == expected


@pytest.mark.parametrize(("document", "stream", "expected"), STREAMS.values(), ids=STREAMS)
def test_a_stream_without_its_last_event_is_a_broken_answer(
    document: type[Document], stream: bytes, expected: str
) -> None:
    setup = Setup(document())
    events = stream.removesuffix(b"\n\n").split(b"\n\n")
    setup.stream(b"\n\n".join(events[:-1]) + b"\n\n")
    setup.sink.end()
    assert setup.inner.order == ["broke"]
    assert setup.inner.error is not None
    assert not setup.inner.error.untouched
    assert not isinstance(setup.inner.error, Untold), "another stream may well tell it"


def test_a_connection_that_breaks_is_told() -> None:
    setup, error = Setup(Chat()), ConnectionBroken("reset", untouched=False)
    setup.stream(CHAT[:300])
    setup.sink.broke(error)
    assert setup.inner.error is error


def test_a_connection_that_breaks_before_any_head_is_told() -> None:
    setup, error = Setup(Chat()), ConnectionBroken("reset", untouched=True)
    setup.sink.broke(error)
    assert setup.inner.error is error


def test_a_connection_that_breaks_after_the_last_event_took_nothing() -> None:
    setup = Setup(Chat())
    setup.stream(CHAT)
    setup.sink.broke(ConnectionBroken("reset", untouched=False))
    assert setup.inner.content.decode() == CHAT_DOCUMENT


@pytest.mark.parametrize(
    ("status", "headers"),
    [(400, [(b"content-type", b"application/json")]), (503, SSE), (200, [(b"content-type", b"application/json")])],
)
def test_what_is_no_stream_passes_untouched(status: int, headers: RawHeaders) -> None:
    setup = Setup(Chat())
    setup.sink.head(status, headers)
    setup.sink.body(b'{"a": ')
    setup.sink.body(b"1 }")
    setup.sink.end()
    assert (setup.inner.status, setup.inner.headers) == (status, headers)
    assert setup.inner.pieces == [b'{"a": ', b"1 }"]
    assert setup.inner.order == ["head", "body", "body", "end"]


ERROR = '{"code":%s,"message":"Context size has been exceeded.","type":"server_error","n_ctx":2048}'


@pytest.mark.parametrize(
    ("document", "event"),
    [
        (Chat(), data(f'{{"error":{ERROR % 503}}}')),
        (Text(), data(f'{{"error":{ERROR % 503}}}')),
        (OwnText(), data(f'{{"error":{ERROR % 503}}}')),
        (Responses(), data(f'{{"error":{ERROR % 503}}}')),
        (Messages(), data(ERROR % 503, "error")),
        (Messages(), data(f'{{"type":"error","error":{ERROR % 503}}}', "error")),
    ],
)
def test_an_error_in_the_stream_is_the_answer(document: Document, event: bytes) -> None:
    setup = Setup(document)
    setup.stream(event, b"data: whatever follows\n\n")
    setup.sink.end()
    assert setup.inner.status == 503
    assert setup.inner.content.decode() == f'{{"error":{ERROR % 503}}}'


@pytest.mark.parametrize("code", ['"overloaded"', "200", "null", "true"])
def test_an_error_without_a_status_is_ours(code: str) -> None:
    setup = Setup(Chat())
    setup.stream(delta('{"content":"a"}'), data(f'{{"error":{ERROR % code}}}'))
    setup.sink.broke(ConnectionBroken("reset", untouched=False))
    assert (setup.inner.status, setup.inner.order[-1]) == (500, "end")


def test_null_is_no_error() -> None:
    setup = Setup(Chat())
    setup.stream(CHAT.replace(b'"choices"', b'"error":null,"choices"'))
    setup.sink.end()
    assert setup.inner.content.decode() == CHAT_DOCUMENT


@pytest.mark.parametrize(
    ("document", "stream"),
    [
        (Chat(), delta("{}", '"stop"') + DONE),
        (Chat(), usage() + DONE),
        (Chat(), delta("{}", '"stop"') + usage(tokens=2) + DONE),
        (Chat(), data('{"error":{"code":500,"message":"Invalid diff: now finding less tool calls!"}}')),
        (Chat(), b"data: <html>\n\n"),
        (Chat(), b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'),
        (Text(), DONE),
        (
            Text(),
            text_chunk("a", f'"finish_reason":null}}],{COMMON}')
            + text_chunk("", f'"finish_reason":null}}],{COMMON}')
            + text_chunk("", f'"finish_reason":"length"}}],{COMMON}')
            + DONE,
        ),
        (OwnText(), data('{"content":"","stop":false}') + data('{"content":"","stop":true,"stop_type":"limit"}')),
        (Messages(), MESSAGES.removeprefix(START)),
        (Messages(), START + told("message_delta", delta={}, usage={"output_tokens": 2}) + told("message_stop")),
        (Responses(), told("response.completed")),
        (Responses(), told("response.completed", response={"output": []})),
        (Chat(), delta("{}", '"stop"') + usage("null") + DONE),
        (Chat(), delta("{}", '"stop"') + usage("1.0") + DONE),
        (Chat(), delta("{}", '"stop"') + usage('"2"') + DONE),
        (Messages(), START + told("message_delta", delta={}, usage={"output_tokens": [1]}) + told("message_stop")),
    ],
)
def test_what_a_stream_cannot_tell_is_said_to_be_so(document: Document, stream: bytes) -> None:
    setup = Setup(document)
    setup.stream(stream)
    setup.sink.end()
    assert setup.inner.order == ["broke"]
    assert isinstance(setup.inner.error, Untold)


def test_an_untold_answer_may_have_been_read_to_its_end() -> None:
    setup = Setup(Messages())
    setup.stream(MESSAGES.removeprefix(START))
    setup.sink.end()
    assert isinstance(setup.inner.error, Untold)
    assert setup.inner.error.whole


def test_an_untold_answer_whose_connection_breaks_was_not_read_to_its_end() -> None:
    setup = Setup(Messages())
    setup.stream(MESSAGES.removeprefix(START))
    setup.sink.broke(ConnectionBroken("reset", untouched=False))
    assert isinstance(setup.inner.error, Untold)
    assert not setup.inner.error.whole


@pytest.mark.parametrize("call", ["head", "body", "end"])
def test_a_document_that_cannot_be_handed_over_is_broken(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(Chat())
    setup.stream(CHAT)
    with monkeypatch.context() as patch:
        patch.setattr(setup.inner, call, raising)
        with pytest.raises(RuntimeError):
            setup.sink.end()
    setup.sink.broke(ConnectionBroken("as a connection says then", untouched=False))
    assert setup.inner.outcome == "broke"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"x": [1.50, 1e400]}', "{}"), ('{"x": NaN}', "{}"), (r'{"x": "\ud800"}', "{}"), ("[" * 100_000, "{}"),
        ("", "{}"), ("[1, 2.50]", "[1,2.5]"), (r'{"b": "\u00fc\n", "a": null}', '{"b":"ü\\n","a":null}'),
    ],
)  # fmt: skip
def test_a_tools_input_is_read_as_llama_server_reads_it(written: str, expected: str) -> None:
    setup = Setup(Messages())
    usage = told("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 5})
    setup.stream(START, TOOL, block(2, type="input_json_delta", partial_json=written), usage, told("message_stop"))
    setup.sink.end()
    assert f'"name":"get","input":{expected}}}' in setup.inner.content.decode()


def test_an_answer_may_be_empty() -> None:
    setup = Setup(Chat())
    setup.stream(delta("{}", '"stop"') + usage(tokens=1) + DONE)
    setup.sink.end()
    assert json.loads(setup.inner.content)["choices"][0]["message"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("chunk", [delta('{"content":"%s"}' % ("x" * 60)), b"data: " + b"x" * 600])
def test_what_it_holds_is_bounded(chunk: bytes) -> None:
    setup = Setup(Chat(), largest=500)
    setup.stream(*[chunk] * 20)
    assert setup.inner.order == ["broke"]
    setup.sink.end()
    assert "longer than 500" in setup.inner.reason


def test_progress_is_what_comes_of_the_answer() -> None:
    setup = Setup(Chat())
    setup.stream(b":\n\n", b":\n\n", delta('{"content":"a"}') * 2, b"data: {", delta('{"content":"b"}')[7:])
    assert setup.progress == 2
