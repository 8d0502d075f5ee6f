"""`/v1/responses`: the last event holds the whole, in another order and without a few words."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from router.proxy.assembly.document import (
    ABSENT,
    Fields,
    Unfinished,
    check,
    check_silence,
    encode,
    fields_of,
    present,
)

# llama-server's order of keys in the document.
_ORDERS = {
    "message": ("content", "id", "role", "status", "type"),
    "reasoning": ("id", "summary", "type", "content", "encrypted_content", "status"),
}
_HEAD = ("completed_at", "created_at", "id", "model", "object", "output", "status", "usage")


class _Event(Struct):
    type: str = ""
    response: Raw = ABSENT
    error: Raw = ABSENT


class Responses:
    """See Document."""

    def __init__(self) -> None:
        self.complete = False
        self._response = b""
        self._decode = msgspec.json.Decoder(_Event).decode

    @property
    def held(self) -> int:
        return len(self._response)

    def take(self, data: bytes) -> None:
        found = self._decode(data)
        check(found.error)
        if found.type == "response.completed":
            self.complete, self._response = True, bytes(found.response)

    def built(self) -> bytes:
        if not self._response:
            raise Unfinished("it never tells the response as a whole")
        response = fields_of(self._response)
        items = msgspec.json.decode(response["output"], type=list[Fields])
        if not items:
            check_silence(response["usage"], "output_tokens")
        response["completed_at"] = response["created_at"]
        response["output"] = Raw(encode([_item(item) for item in items]))
        return encode(_ordered(response, _HEAD))


def _item(item: Fields) -> Fields:
    kind = msgspec.json.decode(item["type"], type=str)
    return _ordered({"status": Raw(b'"completed"'), **item}, _ORDERS[kind]) if kind in _ORDERS else item


def _ordered(fields: Fields, order: tuple[str, ...]) -> Fields:
    return {**present({name: fields.get(name, ABSENT) for name in order}), **fields}
