"""Answers to pieces become one answer; what they look like is llama-server's doing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.errors import Overloaded
from router.proxy.pieces import Joint, Part, Unjoinable, cut
from router.proxy.pieces.cutting import SIZE

PATHS = {False: ("/v1/embeddings", "input"), True: ("/v1/rerank", "documents")}


def joint_of(count: int, *, ranks: bool = False, **fields: Any) -> tuple[Joint, list[Any]]:
    path, member = PATHS[ranks]
    found = cut(path, json.dumps({member: ["x"] * count, **fields}).encode())
    assert found is not None
    return Joint(found), list(found)


def joined(answers: list[bytes], count: int = SIZE + 2, *, ranks: bool = False, **fields: Any) -> bytes:
    joint, pieces = joint_of(count, ranks=ranks, **fields)
    for answer, piece in zip(answers, pieces, strict=True):
        joint.take(answer, piece)
    return b"".join(joint.chunks())


def embeddings(*vectors: str) -> str:
    items = (f'{{"embedding":{v},"index":{n},"object":"embedding"}}' for n, v in enumerate(vectors))
    return ",".join(items)


def told(items: str, tokens: int, name: str = "data") -> bytes:
    usage = f'{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
    return f'{{"model":"m","object":"list","usage":{usage},"{name}":[{items}]}}'.encode()


def test_embeddings_are_numbered_anew_and_their_digits_stay() -> None:
    vectors = [f"[{n}.10,-1e-07,0.30000001192092896]" for n in range(SIZE + 2)]
    answers = [told(embeddings(*vectors[:SIZE]), 100), told(embeddings(*vectors[SIZE:]), 11)]
    assert joined(answers) == told(embeddings(*vectors), 111)


def test_llama_servers_own_embeddings() -> None:
    def own(first: int, last: int, start: int = 0) -> bytes:
        items = (f'{{"index":{n - start},"embedding":[[0.{n}]]}}' for n in range(first, last))
        return f"[{','.join(items)}]".encode()

    assert joined([own(0, SIZE), own(SIZE, SIZE + 2, start=SIZE)]) == own(0, SIZE + 2)


def test_what_stands_behind_the_list_stays_there_and_inner_counts_are_added() -> None:
    def answer(count: int, cached: int) -> bytes:
        items = embeddings(*["[1]"] * count)
        details = f'{{"prompt_tokens_details":{{"cached_tokens":{cached}}},"cost":0.5,"unit":"EUR"}}'
        return f'{{"data":[{items}],"usage":{details},"id":"x"}}'.encode()

    found = joined([answer(SIZE, 1), answer(2, 2)])
    assert found.startswith(b'{"data":[{"embedding":[1],"index":0,')
    assert found.endswith(
        b'"index":17,"object":"embedding"}],"usage":{"prompt_tokens_details":{"cached_tokens":3},"cost":1.0,"unit":"EUR"},"id":"x"}'
    )


def ranking(*scores: tuple[int, str], label: str = "relevance_score") -> str:
    return ",".join(f'{{"index":{index},"{label}":{score}}}' for index, score in scores)


def test_documents_are_ranked_anew() -> None:
    answers = [
        told(ranking((3, "0.50"), (0, "-1e-3")), 7, "results"),
        told(ranking((1, "0.9"), (0, "0.5")), 4, "results"),
    ]
    whole = ranking((17, "0.9"), (3, "0.50"), (16, "0.5"), (0, "-1e-3"))
    assert joined(answers, ranks=True) == told(whole, 11, "results")
    assert joined(answers, ranks=True, top_n=3) == told(whole.rpartition(",{")[0], 11, "results")
    assert joined([told("", 7, "results")] * 2, ranks=True, top_n=0) == told("", 14, "results")


def test_documents_in_another_shape() -> None:
    answers = [f"[{ranking((0, score), label='score')}]".encode() for score in ("null", "0.25")]
    assert joined(answers, ranks=True) == f"[{ranking((16, '0.25'), (0, 'null'), label='score')}]".encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no JSON",
        b"{}",
        b'{"data":{}}',
        b'{"data":[{}],"usage":{}}',
        b'{"data":[1]}',
        told(embeddings("[1]"), 1),
        told('{"index":"first"}', 1),
        told(embeddings(*["[1]"] * SIZE), 1).replace(b'{"prompt', b'[{"prompt'),
    ],
)
def test_an_answer_to_something_else(answer: bytes) -> None:
    joint, (piece, _) = joint_of(SIZE + 2)
    with pytest.raises(Unjoinable):
        joint.take(answer, piece)


def test_a_part_is_kept_as_long_as_there_is_room() -> None:
    room = 10

    def grow(size: int) -> None:
        nonlocal room
        if size > room:
            raise Overloaded("full", retry_after=2)
        room -= size

    part = Part(grow)
    part.start(200, [(b"content-type", b"application/json")])
    part.write(b"12345678")
    part.end(b"9")
    assert (part.status, bytes(part.body), part.complete, part.refusal) == (200, b"123456789", True, None)
    part = Part(grow)
    part.write(b"123")
    part.write(b"4")
    part.end()
    assert isinstance(part.refusal, Overloaded)
    assert (bytes(part.body), part.sent) == (b"", 4)
