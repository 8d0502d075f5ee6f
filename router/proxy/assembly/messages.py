"""Anthropic's `/v1/messages`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import StringIO
from typing import NoReturn

import msgspec
from msgspec import Raw, Struct

from router.proxy.assembly.document import ABSENT, Fields, Unfinished, check, check_silence, encode, fields_of

_TOOL_SIZE = 200  # what a call takes beside its input, roughly


class _Start(Struct):
    type: str = ""
    id: str = ""
    name: str = ""


class _Delta(Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: Raw = Raw(b"null")
    stop_sequence: Raw = Raw(b"null")


class _Event(Struct):
    type: str = ""
    index: int = 0
    content_block: _Start = msgspec.field(default_factory=_Start)
    delta: _Delta = msgspec.field(default_factory=_Delta)
    message: Raw = ABSENT
    usage: Raw = ABSENT
    error: Raw = ABSENT


@dataclass(slots=True)
class _ToolUse:
    id: str
    name: str
    input: StringIO = field(default_factory=StringIO)

    def built(self) -> dict[str, object]:
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": _parsed(self.input.getvalue())}


class Messages:
    """See Document.

    llama-server leaves `message_start` out when the first token is but a part of a character; then the model, the id
    and the length of the prompt were never told, and the document cannot be built.
    """

    def __init__(self) -> None:
        self.complete = False
        self._start = ABSENT
        self._thinking = StringIO()
        self._text = StringIO()
        self._tools: dict[int, _ToolUse] = {}
        self._end = _Event()
        self._decode = msgspec.json.Decoder(_Event).decode

    @property
    def held(self) -> int:
        tools = sum(_TOOL_SIZE + tool.input.tell() for tool in self._tools.values())
        return self._thinking.tell() + self._text.tell() + tools

    def take(self, data: bytes) -> None:
        found = self._decode(data)
        check(found.error)
        match found.type:
            case "message_start":
                self._start = found.message
            case "content_block_start" if found.content_block.type == "tool_use":
                self._name(found.index, found.content_block)
            case "content_block_delta":
                self._grow(found.index, found.delta)
            case "message_delta":
                self._end = found
            case "message_stop":
                self.complete = True

    def _name(self, index: int, start: _Start) -> None:
        # A block is begun again when more of its name is known, and once more at the end.
        tool = self._tools.setdefault(index, _ToolUse(start.id, start.name))
        tool.id, tool.name = start.id, start.name

    def _grow(self, index: int, delta: _Delta) -> None:
        self._thinking.write(delta.thinking)
        self._text.write(delta.text)
        if delta.partial_json:
            self._tools.setdefault(index, _ToolUse("", "")).input.write(delta.partial_json)

    def built(self) -> bytes:
        if not self._start or not self._end.usage:
            raise Unfinished("it does not say how it began or what it used")
        if self.held == 0:
            check_silence(self._end.usage, "output_tokens")
        message = fields_of(self._start)
        usage: Fields = {**fields_of(message["usage"]), **fields_of(self._end.usage)}
        message["usage"] = Raw(encode(usage))
        message["content"] = Raw(encode(self._content()))
        message["stop_reason"] = self._end.delta.stop_reason
        message["stop_sequence"] = self._end.delta.stop_sequence
        return encode(message)

    def _content(self) -> list[dict[str, object]]:
        blocks: list[dict[str, object]] = []
        if thinking := self._thinking.getvalue():
            blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if text := self._text.getvalue():
            blocks.append({"type": "text", "text": text})
        return blocks + [self._tools[index].built() for index in sorted(self._tools)]


def _parsed(written: str) -> Raw:
    """What a model wrote for an input; an empty object for what is no JSON, as with llama-server."""
    try:
        found = json.loads(written, parse_constant=_refused)
        return Raw(json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
    except (ValueError, RecursionError):
        return Raw(b"{}")


def _refused(name: str) -> NoReturn:
    raise ValueError(name)
