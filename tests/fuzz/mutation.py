"""Nonsense made of sense: small changes to bytes and to JSON documents, drawn from a seeded source."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

# Values that programs stumble over, of every type that JSON has.
NONSENSE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**31), 2**63, 2**64, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, -1e-308,
    "", " ", "x", "\x00", "\ufeff", "\ud800", "ünï 模型", "../../etc/passwd", "%s%n%x", "{{ x }}", "<|im_end|>",
    "data:image/png;base64,AAAA", "http://[::1", "-1", "1e999", "auto", "none", "json_object", "x" * 5000,
    [], {}, [[]], [None], [{}], [0], [""], [-1, 2**40], {"": None}, {"type": "object"}, {"type": 1},
    {"$ref": "#"}, {"type": "json_schema"}, {"type": "function", "function": {}}, [[[[[[[[]]]]]]]],
)  # fmt: skip
_TOKENS = (b"NaN", b"Infinity", b"1" * 5000, b"\\ud800", b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"null", b"{}", b'"',
           b",", b"[" * 300, b'{"a":' * 300, b"1e99999", b"\\u0000")  # fmt: skip
_MOST = 3  # changes to one thing


class Mutator:
    """Changes at random, the same ones for the same source."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def body(self, document: Any) -> bytes:
        """A JSON body: mostly well-formed with something odd in it, sometimes broken as text."""
        return self.text(self.document(document))

    def text(self, document: Any) -> bytes:
        """The document as JSON, mostly."""
        body = json.dumps(document, ensure_ascii=self._random.random() < 0.8).encode("utf-8", "surrogatepass")
        return self.torn(body) if self._random.random() < 0.15 else body

    def document(self, document: Any) -> Any:
        mutant = deepcopy(document)
        for _ in range(self._random.randint(1, _MOST)):
            mutant = self._changed(mutant)
        return mutant

    def torn(self, data: bytes) -> bytes:
        for _ in range(self._random.randint(1, _MOST)):
            data = self._spoiled(data)
        return data

    def _changed(self, value: Any) -> Any:
        """One change, somewhere in it: the deeper the value, the deeper the change may lie."""
        inside = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
        if inside and self._random.random() < 0.75:
            place = self._random.choice(list(inside))
            if self._random.random() < 0.15:
                del value[place]
            else:
                value[place] = self._changed(value[place])
            return value
        return self._replaced(value)

    def _replaced(self, value: Any) -> Any:
        draw = self._random.random()
        if draw < 0.6:
            return deepcopy(self._random.choice(NONSENSE))
        if draw < 0.7:
            return [value]
        if draw < 0.8 and isinstance(value, dict):
            return value | {str(self._random.choice(NONSENSE[20:30])): deepcopy(self._random.choice(NONSENSE))}
        if draw < 0.9 and isinstance(value, str):
            return self.torn(value.encode("utf-8", "replace")).decode("utf-8", "replace")
        if isinstance(value, list):
            return [deepcopy(one) for _ in range(self._random.choice((2, 3, 40))) for one in value]
        return {"value": value}

    def _spoiled(self, data: bytes) -> bytes:
        spoil = self._random.choice(_SPOILS)
        start, end = sorted((self._random.randint(0, len(data)), self._random.randint(0, len(data))))
        return spoil(self._random, data, start, min(end, start + 64))


def _flipped(random: Random, data: bytes, start: int, _: int) -> bytes:
    if start == len(data):
        return data
    return data[:start] + bytes([data[start] ^ (1 << random.randrange(8))]) + data[start + 1 :]


def _cut_out(_: Random, data: bytes, start: int, end: int) -> bytes:
    return data[:start] + data[end:]


def _cut_short(_: Random, data: bytes, start: int, __: int) -> bytes:
    return data[:start]


def _repeated(random: Random, data: bytes, start: int, end: int) -> bytes:
    return data[:end] + data[start:end] * random.choice((1, 2, 30)) + data[end:]


def _inserted(random: Random, data: bytes, start: int, _: int) -> bytes:
    return data[:start] + random.choice(_TOKENS) + data[start:]


def _overwritten(random: Random, data: bytes, start: int, end: int) -> bytes:
    return data[:start] + random.randbytes(end - start) + data[end:]


_SPOILS: tuple[Callable[[Random, bytes, int, int], bytes], ...] = (
    _flipped, _flipped, _cut_out, _cut_short, _repeated, _inserted, _overwritten,
)  # fmt: skip
