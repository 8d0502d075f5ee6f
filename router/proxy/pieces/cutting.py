"""Cuts a request's array into pieces. Around the array, and within its elements, nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from router.errors import InvalidRequest

SIZE = 16
_EMBED = dict.fromkeys(("/v1/embeddings", "/embeddings", "/embedding"), False)
_RANK = dict.fromkeys(("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"), True)
_RANKS: Mapping[str, bool] = _EMBED | _RANK

# What the boundaries of elements are seen from; an array of nothing but scalars is one token. Quantifiers are
# possessive, as a text with a million escapes would otherwise be remembered escape by escape.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|\[[^][{}"]*+\]|[][{},]|[-0-9][^],}\s]*+')
# Looking at so many takes 0.1 s, in which the router does nothing else.
_MOST_TOKENS = 1 << 17
_ABSENT = Raw(b"")
_NUMBERS = frozenset(b"-0123456789")
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")


class _Fields(Struct):
    """Of two members of one name the last one counts, here and there."""

    input: Raw = _ABSENT
    content: Raw = _ABSENT
    documents: Raw = _ABSENT
    texts: Raw = _ABSENT
    top_n: Raw = _ABSENT


_fields = msgspec.json.Decoder(_Fields).decode


class Piece(NamedTuple):
    """Attributes:
    body: the request's, with a part of its array in place of the whole.
    first: index of its first element in the whole.
    size: how many elements it has.
    last: there is none behind it.
    """

    body: bytes
    first: int
    size: int
    last: bool


@dataclass(frozen=True, slots=True)
class Pieces:
    """A request that has been cut.

    Attributes:
        ranks: its answer lists the elements by their rank.
        top_n: how many of them; None = all.
    """

    body: bytes
    ranks: bool
    top_n: int | None
    _cuts: tuple[int, ...]  # places in the body: of the bracket, of the comma behind each piece, of the other bracket
    _elements: int

    def __iter__(self) -> Iterator[Piece]:
        before, after = self.body[: self._cuts[0] + 1], self.body[self._cuts[-1] :]
        for number, (start, end) in enumerate(pairwise(self._cuts)):
            first = number * SIZE
            body = b"".join((before, self.body[start + 1 : end], after))
            yield Piece(body, first, min(SIZE, self._elements - first), end == self._cuts[-1])


def cut(path: str, body: bytes) -> Pieces | None:
    """The pieces of a request, None if it is to be sent as it is.

    That is so if it has at most sixteen elements, or is none of these requests, or one that llama-server will refuse.

    Args:
        path: of the upstream's endpoint, without a query.
        body: a JSON object that has been found valid.

    Raises:
        InvalidRequest: the array is so long that looking through it would hold everybody up.
    """
    ranks = _RANKS.get(path)
    if ranks is None or body.count(b",") < SIZE:
        return None
    try:
        fields = _fields(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    name, array = _ranked(fields) if ranks else _embedded(fields)
    start = _place(name, array, body)
    cuts, elements = ((), 0) if start is None else _boundaries(name, body, start)
    return Pieces(body, ranks, _whole(fields.top_n), cuts, elements) if elements > SIZE else None


def _embedded(fields: _Fields) -> tuple[str, Raw]:
    return ("input", fields.input) if fields.input else ("content", fields.content)


def _ranked(fields: _Fields) -> tuple[str, Raw]:
    found = fields.documents
    return ("documents", found) if found and memoryview(found)[0] == ord("[") else ("texts", fields.texts)


def _place(name: str, array: Raw, body: bytes) -> int | None:
    """Where this member's array begins; None where there is none, or doubt.

    The pattern matches nothing but keys: within a string its quotes would be escaped. The key may also be one of an
    inner object.
    """
    value = bytes(array)
    if not value.startswith(b"["):
        return None
    keys = re.finditer(rb'"%s"\s*+:\s*+(?=\[)' % name.encode(), body)
    places = [key.end() for key in keys if body.startswith(value, key.end())]
    return places[0] if len(places) == 1 else None


def _boundaries(name: str, body: bytes, start: int) -> tuple[tuple[int, ...], int]:
    """Where to cut the array that begins at `start`, and how many elements it has.

    None at all if there is a number among them: llama.cpp takes such an array as the tokens of one input.
    """
    cuts, commas, depth = [start], 0, 0
    for number, token in enumerate(_TOKEN.finditer(body, start)):
        if number == _MOST_TOKENS:
            message = f"`{name}` is too long: more than {_MOST_TOKENS // 2} elements. Send it in several requests."
            raise InvalidRequest(message, param=name)
        at = token.start()
        kind = body[at]
        if kind in _OPENING and token.end() == at + 1:
            depth += 1
        elif kind in _CLOSING:
            depth -= 1
        elif depth == 1 and kind == ord(","):
            commas += 1
            if commas % SIZE == 0:
                cuts.append(at)
        elif depth == 1 and kind in _NUMBERS:
            return (), 0
        if depth == 0:
            return (*cuts, token.end() - 1), commas + 1
    raise AssertionError("an array without an end in JSON that was found valid")


def _whole(raw: Raw) -> int | None:
    """A number as llama.cpp reads it, cut to an integer; what is none does not count."""
    try:
        return int(msgspec.json.decode(raw, type=int | float | bool))
    except (msgspec.DecodeError, OverflowError):
        return None
