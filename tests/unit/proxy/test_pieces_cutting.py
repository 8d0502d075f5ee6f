"""Arrays are cut where their elements end, and nothing else of a body is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidRequest
from router.proxy.pieces import Pieces, cut
from router.proxy.pieces.cutting import SIZE

MANY = [f"text {number}" for number in range(2 * SIZE + 3)]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(['"', "\\", '],"input":[', "[{", ","])
TOKENS = st.lists(st.integers(0, 40000), max_size=5)
INPUTS = TEXTS | TOKENS | st.lists(TEXTS | st.integers(0, 9), max_size=4) | st.just({"content": [{"text": "a, [b]"}]})


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def pieces(path: str, whole: bytes) -> Pieces:
    found = cut(path, whole)
    assert found is not None
    return found


@given(
    inputs=st.lists(INPUTS, min_size=SIZE + 1, max_size=4 * SIZE),
    others=st.dictionaries(TEXTS, st.none() | TEXTS | TOKENS, max_size=3),
    indent=st.none() | st.just(1),
    readable=st.booleans(),
    before=st.booleans(),
)
def test_every_element_is_in_one_piece_and_the_rest_in_each(
    inputs: list[Any], others: dict[str, Any], indent: int | None, readable: bool, before: bool
) -> None:
    for name in ("input", "content"):
        others.pop(name, None)
    document = {**others, "input": inputs} if before else {"input": inputs, **others}
    whole = json.dumps(document, indent=indent, ensure_ascii=readable).encode()
    found = list(pieces("/v1/embeddings", whole))
    asked = [json.loads(piece.body) for piece in found]
    assert [element for piece in asked for element in piece.pop("input")] == inputs
    assert all(list(piece.items()) == list(others.items()) for piece in asked)
    assert [piece.first for piece in found] == list(range(0, len(inputs), SIZE))
    assert all(piece.size == SIZE for piece in found[:-1])
    assert sum(piece.size for piece in found) == len(inputs)
    assert [piece.last for piece in found] == [False] * (len(found) - 1) + [True]


def test_the_rest_stays_byte_for_byte() -> None:
    inputs = [b'"a\\u0041"', b"[1 ,2]"] * SIZE
    start, end = b' {"x": 1.50, "input" :\n[', b' ], "x":2e0, "y" : "\\u00e9" }\n'
    first, second = pieces("/embedding", start + b" , ".join(inputs) + end)
    assert first.body == start + b" , ".join(inputs[:SIZE]) + b" " + end[1:]
    assert second.body == start + b" " + b" , ".join(inputs[SIZE:]) + end


@pytest.mark.parametrize(
    ("path", "fields", "member"),
    [
        ("/v1/embeddings", {"input": MANY}, "input"),
        ("/embeddings", {"content": MANY}, "content"),
        ("/embedding", {"content": ["a"], "input": MANY}, "input"),
        ("/v1/embeddings", {"input": [{"content": [{"type": "text", "text": "a"}]} for _ in MANY]}, "input"),
        ("/v1/rerank", {"query": "q", "documents": MANY}, "documents"),
        ("/rerank", {"query": "q", "texts": MANY}, "texts"),
        ("/v1/reranking", {"query": "q", "texts": ["a"], "documents": MANY}, "documents"),
        ("/reranking", {"query": "q", "documents": None, "texts": MANY}, "texts"),
    ],
)
def test_what_is_cut_is_what_llama_server_reads(path: str, fields: dict[str, Any], member: str) -> None:
    asked = [json.loads(piece.body) for piece in pieces(path, body(**fields))]
    assert [len(piece.pop(member)) for piece in asked] == [SIZE, SIZE, 3]
    others = {name: value for name, value in fields.items() if name != member}
    assert asked == [others] * 3


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        ("/v1/embeddings", body(input=MANY[:SIZE])),
        ("/v1/embeddings", body(input=["a, b, c" * 10] * SIZE)),
        ("/v1/embeddings", body(input=", " * 100)),
        ("/v1/embeddings", body(input=list(range(100)))),
        ("/v1/embeddings", body(input=[*MANY, 3, *MANY])),
        ("/v1/embeddings", body(input=[*MANY, -3.5])),
        ("/v1/embeddings", body(input=[None] * 100)),
        ("/v1/embeddings", body(input={"a": MANY})),
        ("/v1/embeddings", body(input=None, content=MANY)),
        ("/v1/embeddings", body(documents=MANY)),
        ("/v1/embeddings", body(input=MANY, more={"input": MANY})),
        ("/v1/embeddings", body(input=MANY).replace(b"input", rb"inp\u0075t")),
        ("/v1/embeddings", body(input=[*MANY, "\ud800"])),
        ("/v1/rerank", body(query="q", input=MANY)),
        ("/v1/chat/completions", body(input=MANY)),
        ("/tokenize", body(content=MANY)),
    ],
)
def test_the_rest_is_sent_as_it_is(path: str, whole: bytes) -> None:
    assert cut(path, whole) is None


def test_of_two_arrays_the_last_counts() -> None:
    first = body(input=["no"] * 100)
    found = list(pieces("/v1/embeddings", first[:-1] + b"," + body(input=MANY)[1:]))
    assert [json.loads(piece.body)["input"] for piece in found] == [MANY[:16], MANY[16:32], MANY[32:]]


@pytest.mark.parametrize(
    ("raw", "top_n"), [("3", 3), ("2.7", 2), ("true", 1), ("null", None), ('"3"', None), ("[1]", None), ("0", 0)]
)
def test_top_n_is_read_as_llama_server_does(raw: str, top_n: int | None) -> None:
    whole = body(documents=MANY)[:-1] + f',"top_n":{raw}}}'.encode()
    assert pieces("/v1/rerank", whole).top_n == top_n


def test_an_array_that_would_take_too_long_to_look_through() -> None:
    assert len(list(pieces("/v1/embeddings", body(input=["a"] * 65000)))) == 65000 / SIZE + 0.5
    for endless in (["a"] * 66000, [["", ""]] * 40000):
        with pytest.raises(InvalidRequest, match="`input` is too long: more than 65536 elements"):
            cut("/v1/embeddings", body(input=endless))
