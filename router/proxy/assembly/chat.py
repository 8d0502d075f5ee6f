"""`/v1/chat/completions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO

import msgspec
from msgspec import Raw, Struct

from router.proxy.assembly.document import ABSENT, Unfinished, check, check_silence, encode, present
from router.proxy.assembly.text import with_text

_CALL_SIZE = 200  # what a call takes beside its arguments, roughly


class _Function(Struct):
    name: str = ""
    arguments: str = ""


class _CallDelta(Struct):
    index: int = 0
    id: str = ""
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_CallDelta] = []


class _Choice(Struct):
    index: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    created: Raw = ABSENT
    model: Raw = ABSENT
    system_fingerprint: Raw = ABSENT
    usage: Raw = ABSENT
    id: Raw = ABSENT
    timings: Raw = ABSENT
    verbose: Raw = msgspec.field(default=ABSENT, name="__verbose")
    error: Raw = ABSENT


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: StringIO = field(default_factory=StringIO)

    def take(self, delta: _CallDelta) -> None:
        # Not in pieces: when more of the name is known it is told again as a whole.
        self.id = delta.id or self.id
        self.name = delta.function.name or self.name
        self.arguments.write(delta.function.arguments)

    def built(self) -> dict[str, object]:
        function = {"name": self.name, "arguments": self.arguments.getvalue()}
        return {"type": "function", "function": function, **({"id": self.id} if self.id else {})}


class Chat:
    """See Document. Asks for `stream_options.include_usage`, without which the stream lacks `usage`."""

    def __init__(self) -> None:
        self.complete = False
        self._content = StringIO()
        self._reasoning = StringIO()
        self._calls: dict[int, _Call] = {}
        self._finish: str | None = None
        self._verbose = ABSENT
        self._last = _Chunk()
        self._decode = msgspec.json.Decoder(_Chunk).decode

    @property
    def held(self) -> int:
        calls = sum(_CALL_SIZE + call.arguments.tell() for call in self._calls.values())
        return self._content.tell() + self._reasoning.tell() + calls

    def take(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.complete = True
            return
        chunk = self._decode(data)
        check(chunk.error)
        for choice in chunk.choices:
            self._finish = choice.finish_reason or self._finish
            self._grow(choice.delta)
        if chunk.verbose:
            self._verbose = chunk.verbose
        self._last = chunk

    def _grow(self, delta: _Delta) -> None:
        self._content.write(delta.content or "")
        self._reasoning.write(delta.reasoning_content or "")
        for call in delta.tool_calls:
            self._calls.setdefault(call.index, _Call()).take(call)

    def built(self) -> bytes:
        last = self._last
        if self._finish is None or not last.usage:
            raise Unfinished("it lacks a reason to finish or its usage")
        if self.held == 0:
            check_silence(last.usage, "completion_tokens")
        choice = {"finish_reason": self._finish, "index": 0, "message": self._message()}
        verbose = with_text(self._verbose, self._content.getvalue()) if self._verbose else ABSENT
        head = {"created": last.created, "model": last.model, "system_fingerprint": last.system_fingerprint}
        tail = {"usage": last.usage, "id": last.id, "__verbose": verbose, "timings": last.timings}
        return encode({"choices": [choice], **present(head), "object": "chat.completion", **present(tail)})

    def _message(self) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": self._content.getvalue()}
        if reasoning := self._reasoning.getvalue():
            message["reasoning_content"] = reasoning
        if self._calls:
            message["tool_calls"] = [self._calls[index].built() for index in sorted(self._calls)]
        return message
