"""Puts the answers to the pieces of a request together into the answer to the whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from router.proxy.pieces.cutting import Piece, Pieces

_Item = dict[str, Raw]

_encode = msgspec.json.encode
_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
_items_of = msgspec.json.Decoder(list[_Item]).decode
_usage_of = msgspec.json.Decoder(dict[str, Any]).decode

_LIST = re.compile(rb"\s*\[")
_HOLE = Raw(b"[\0]")  # what no JSON holds


class Unjoinable(Exception):
    """The answer to a piece is none to that piece; says how."""


class Joint:
    """The answer to a whole request, as far as its pieces have been answered.

    An object with the elements in its member `data` or `results`, or nothing but their array. The elements carry
    their `index`. llama-server lists documents by falling score, and cuts the list off behind `top_n`; each piece's
    list was cut off so too, and what is missing there would not be among the first of the whole either.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._ranks = pieces.ranks
        self._top_n = pieces.top_n
        self._name = "results" if pieces.ranks else "data"
        self._fields: dict[str, Raw] | None = None  # of the first answer
        self._usage: dict[str, Any] = {}
        self._told: list[bytes] = []  # items with commas between them, a piece each
        self._ranked: list[tuple[float, bytes]] = []

    def take(self, answer: bytes | bytearray, piece: Piece) -> None:
        """Add the answer to the next piece. Raises Unjoinable."""
        try:
            items = _items_of(answer if _LIST.match(answer) else self._list_in(answer))
            for item in items:
                item["index"] = Raw(b"%d" % (int(bytes(item["index"])) + piece.first))
            if self._ranks:
                self._ranked += [(_score(item), _encode(item)) for item in items]
        except (msgspec.DecodeError, KeyError, ValueError) as error:
            raise Unjoinable(f"it is not what was expected ({error})") from error
        if not self._ranks:
            if len(items) != piece.size:
                raise Unjoinable(f"it has {len(items)} elements for {piece.size} inputs")
            self._told.append((b"," if self._told else b"") + _encode(items)[1:-1])

    def chunks(self) -> list[bytes]:
        """The whole answer, in order; none of them is empty."""
        told = self._told
        if self._ranks:
            ranked = sorted(self._ranked, key=lambda entry: -entry[0])[: self._top_n]
            told = [b",".join(item for _, item in ranked)]
        before, after = self._frame()
        return [before + b"[", *filter(None, told), b"]" + after]

    def _list_in(self, answer: bytes | bytearray) -> Raw:
        fields = _fields_of(answer)
        found = fields[self._name]
        if "usage" in fields:
            self._usage = _sum(self._usage, _usage_of(fields["usage"]))
        if self._fields is None:
            # Copies, since the originals hold on to the whole answer.
            copies = ((name, _HOLE if value is found else Raw(bytes(value))) for name, value in fields.items())
            self._fields = dict(copies)
        return found

    def _frame(self) -> tuple[bytes, bytes]:
        """What stands around the list."""
        if self._fields is None:
            return b"", b""
        if "usage" in self._fields:
            self._fields["usage"] = Raw(_encode(self._usage))
        before, _, after = _encode(self._fields).partition(bytes(_HOLE))
        return before, after


def _score(item: Mapping[str, Raw]) -> float:
    """NaN is told as null, and sorted by llama-server as 0."""
    raw = bytes(item.get("relevance_score") or item["score"])
    return 0.0 if raw == b"null" else float(raw)


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two usages as one: numbers added up, also those of inner objects."""
    return {key: _added(one.get(key), other.get(key)) for key in {**one, **other}}


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return _sum(one, other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return other if one is None else one
