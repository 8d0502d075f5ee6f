"""`/v1/completions`, and llama.cpp's own `/completion`: the last event is the document but for its text.

Every token has its event. A token whose text is held back, as a stop word might begin with it, has one without text; if
that is the last before the answer is cut off by its length, the text never comes.
"""

from __future__ import annotations

from io import StringIO

import msgspec
from msgspec import Raw, Struct

from router.proxy.assembly.document import ABSENT, Fields, Unfinished, check, encode, fields_of

_HELD_BACK = "its end was held back"


class _Choice(Struct):
    text: str = ""
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    error: Raw = ABSENT


class _OwnChunk(Struct):
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    error: Raw = ABSENT


class Text:
    """See Document."""

    def __init__(self) -> None:
        self.complete = False
        self._text = StringIO()
        self._last = b""
        self._silent = self._cut = False
        self._decode = msgspec.json.Decoder(_Chunk).decode

    @property
    def held(self) -> int:
        return self._text.tell() + len(self._last)

    def take(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.complete = True
            return
        chunk = self._decode(data)
        check(chunk.error)
        for choice in chunk.choices:
            self._text.write(choice.text)
            if choice.finish_reason is None:
                self._silent = not choice.text
            else:
                self._last, self._cut = data, choice.finish_reason == "length"

    def built(self) -> bytes:
        if not self._last:
            raise Unfinished("it has no reason to finish")
        if self._cut and self._silent:
            raise Unfinished(_HELD_BACK)
        document, text = fields_of(self._last), self._text.getvalue()
        choices = msgspec.json.decode(document["choices"], type=list[Fields])
        choices[0]["text"] = Raw(encode(text))
        if "__verbose" in document:
            document["__verbose"] = with_text(document["__verbose"], text)
        return encode({**document, "choices": choices})


class OwnText:
    """See Document: the same in llama.cpp's own words."""

    def __init__(self) -> None:
        self.complete = False
        self._text = StringIO()
        self._last = b""
        self._silent = self._cut = False
        self._decode = msgspec.json.Decoder(_OwnChunk).decode

    @property
    def held(self) -> int:
        return self._text.tell() + len(self._last)

    def take(self, data: bytes) -> None:
        chunk = self._decode(data)
        check(chunk.error)
        self._text.write(chunk.content)
        if chunk.stop:
            self.complete, self._last, self._cut = True, data, chunk.stop_type == "limit"
        else:
            self._silent = not chunk.content

    def built(self) -> bytes:
        if self._cut and self._silent:
            raise Unfinished(_HELD_BACK)
        return bytes(with_text(Raw(self._last), self._text.getvalue()))


def with_text(last: Raw, text: str) -> Raw:
    """llama.cpp's own final object, with the whole text, as if nothing had been streamed."""
    document = fields_of(last)
    document["content"] = Raw(encode(text))
    if "generation_settings" in document:
        settings = {**fields_of(document["generation_settings"]), "stream": Raw(b"false")}
        document["generation_settings"] = Raw(encode(settings))
    return Raw(encode(document))
