"""Large JSON bodies without the media in them."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.api.condense import condensed
from router.api.envelope import parse_json
from router.errors import InvalidRequest

BASE64 = b"iVBORw0KGgo+AAAANSUhEU/g=" * 40_000
MEDIA = st.sampled_from([b"A" * size for size in (1, 8_000, 16_384, 30_000, 2**20, 2**20 + 1, 3 * 2**20)])
TEXT = st.sampled_from([b"", b"Hi, ", b"\\n", b"\\u00e9", "ünï".encode(), b" "])
STRINGS = st.lists(st.one_of(MEDIA, TEXT), max_size=4).map(b"".join)


def document(*strings: bytes) -> bytes:
    return b'{"messages": [%b], "stream": true, "model": "chat"}' % b", ".join(b'"%b"' % text for text in strings)


async def test_media_are_left_out_and_the_rest_is_not() -> None:
    body = document(b"data:image/png;base64," + BASE64, b"What is it?", BASE64)
    text = await condensed(body)
    assert len(text) < 100_000
    assert json.loads(text)["messages"][1] == "What is it?"
    assert parse_json(text) == parse_json(body)


async def test_a_small_one_is_as_it_was() -> None:
    body = document(b"Hi", b"A" * 10_000)
    assert await condensed(body) == body


@settings(deadline=None, max_examples=30)
@given(st.lists(STRINGS, max_size=4))
def test_what_is_json_stays_json_and_means_the_same(strings: list[bytes]) -> None:
    body = document(*strings)
    text = asyncio.run(condensed(body))
    assert len(text) <= len(body)
    assert len(json.loads(text)["messages"]) == len(strings)
    assert parse_json(text) == parse_json(body)


@pytest.mark.parametrize(
    "body",
    [
        document(BASE64)[:-1],
        document(BASE64) + b"x",
        b'{"a": %b}' % BASE64,
        b'{"a": %b}' % (b"7" * 100_000),
        b'{"a": "%b\x01"}' % BASE64,
        b'{"a": "%b\xff"}' % BASE64,
    ],
    ids=["cut", "more", "bare", "digits", "control", "utf-8"],
)
async def test_what_is_none_is_none(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(await condensed(body))
