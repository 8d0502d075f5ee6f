"""Token counts out of passing answers."""

import pytest

from router.proxy.usage import Tokens, UsageTap

FILLER = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}', Tokens(12, 34)),
        (b'{"object":"list","usage":{"prompt_tokens":5},"data":[' + b"0," * 40_000 + b"0]}", Tokens(5, 0)),
        (
            FILLER * 900 + b'data: {"timings": {"cache_n":3,"prompt_n":4,"predicted_n":9}}\n\ndata: [DONE]\n\n',
            Tokens(7, 9),
        ),
        (
            b'data: {"message":{"usage":{"cache_read_input_tokens":7,"input_tokens":1,"output_tokens":0}}}\n\n'
            + FILLER * 900
            + b'data: {"type":"message_delta","usage":{"output_tokens":21}}\n\n',
            Tokens(8, 21),
        ),
        (FILLER, Tokens()),
        (b'{"usage":{"prompt_tokens":', Tokens()),
        (b'{"usage":{"prompt_tokens":"many"}}', Tokens()),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":99}"}', Tokens()),
        (b"", Tokens()),
        (b'{"usage":' + b'{"a":' * 3000, Tokens()),
    ],
    ids=["json", "head", "timings", "anthropic", "none", "cut", "odd", "quoted", "empty", "deep"],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_counts(answer: bytes, tokens: Tokens, size: int) -> None:
    tap = UsageTap()
    for start in range(0, len(answer), size):
        tap.feed(answer[start : start + size])
    assert tap.tokens() == tokens


def test_a_long_answer_is_not_kept() -> None:
    tap = UsageTap()
    for _ in range(10_000):
        tap.feed(FILLER)
    assert sum(len(chunk) for chunk in tap._tail) < 10_000
