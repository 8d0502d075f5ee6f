"""Token counts out of passing answers."""

import pytest

from router.proxy.usage import Tokens, UsageTap

FILLER = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
NULL = b'data: {"choices":[{"delta":{"content":"word"}}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"
DETAILED = (
    b'data: {"choices":[],"usage":{"completion_tokens":34,"prompt_tokens":12,"total_tokens":46,'
    b'"prompt_tokens_details":{"cached_tokens":10}},"timings":{"cache_n":10,"prompt_n":2,"prompt_ms":30.5,'
    b'"prompt_per_second":65.57,"predicted_n":34,"predicted_ms":661}}\n\n'
)
ANTHROPIC_START = (
    b'data: {"message":{"usage":{"cache_read_input_tokens":7,"cache_creation_input_tokens":2,"input_tokens":1,'
    b'"output_tokens":0}}}\n\n'
)
ANTHROPIC_END = b'data: {"type":"message_delta","usage":{"output_tokens":21}}\n\n'
RESPONSES = b'{"usage":{"input_tokens":9,"output_tokens":4,"input_tokens_details":{"cached_tokens":8}}}'


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}', Tokens(12, 34)),
        (b'{\n "usage" : {\n "prompt_tokens" : 12,\n "completion_tokens" : 34 }\n}', Tokens(12, 34)),
        (b'{"object":"list","usage":{"prompt_tokens":5},"data":[' + b"0," * 40_000 + b"0]}", Tokens(5, 0)),
        (b'{"data":[' + b"0," * 40_000 + b'0],"usage":{"prompt_tokens":5}}', Tokens(5, 0)),
        (FILLER * 900 + DETAILED + DONE, Tokens(12, 34, 10, 0.0305, 0.661)),
        (FILLER * 200 + DETAILED + DONE, Tokens(12, 34, 10, 0.0305, 0.661)),
        (NULL * 900 + b'data: {"usage":{"prompt_tokens":2,"completion_tokens":3}}\n\n' + NULL + DONE, Tokens(2, 3)),
        (
            FILLER * 900 + b'data: {"timings": {"cache_n":3,"prompt_n":4,"predicted_n":9}}\n\ndata: [DONE]\n\n',
            Tokens(7, 9, 3),
        ),
        (ANTHROPIC_START + FILLER * 900 + ANTHROPIC_END, Tokens(10, 21, 7)),
        (ANTHROPIC_START + ANTHROPIC_END, Tokens(10, 21, 7)),
        (ANTHROPIC_START + FILLER * 900, Tokens(10, 0, 7)),
        (RESPONSES, Tokens(9, 4, 8)),
        (FILLER, Tokens()),
        (b'{"usage":{"prompt_tokens":', Tokens()),
        (b'{"usage":{"prompt_tokens":"many"}}', Tokens()),
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":3}}', Tokens()),
        (b'{"usage":{"prompt_tokens":1' + b"0" * 400 + b',"completion_tokens":3}}', Tokens()),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":null}}', Tokens(3)),
        (b'{"timings":{"prompt_ms":-5.0,"predicted_ms":1e400}}', Tokens()),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":99}"}', Tokens()),
        (b'{"content":"usage","usage":{"prompt_tokens":3}}', Tokens(3)),
        (b"", Tokens()),
        (b'{"usage":' + b'{"a":' * 3000, Tokens()),
        (b'{"usage":' + b'{"a":' * 3000 + b"1" + b"}" * 3001, Tokens()),
    ],
    ids=[
        *("json", "spaced", "head", "tail", "timed", "short", "nulls", "timings", "anthropic", "anthropic short"),
        *("anthropic broken", "responses", "none", "cut", "odd", "negative", "absurd", "null", "bad times"),
        *("quoted", "a value", "empty", "deep", "deep and whole"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000, 30_000, 1_000_000])
def test_counts(answer: bytes, tokens: Tokens, size: int) -> None:
    tap = UsageTap()
    for start in range(0, len(answer), size):
        tap.feed(answer[start : start + size])
    assert tap.tokens() == tokens


@pytest.mark.parametrize("size", [1, 3000, 4095, 4096, 4097, 12_288, 24_576, 24_577, 100_000])
def test_the_beginning_and_the_end_are_kept_however_it_comes(size: int) -> None:
    """A usage right behind the first 3 KiB and one right before the end, whatever the sizes of the chunks."""
    answer = b" " * 3000 + ANTHROPIC_START + b" " * 50_000 + ANTHROPIC_END + b" " * 8000
    tap = UsageTap()
    for start in range(0, len(answer), size):
        tap.feed(answer[start : start + size])
    assert tap.tokens() == Tokens(10, 21, 7)


def test_a_long_answer_is_not_kept() -> None:
    tap = UsageTap()
    for _ in range(10_000):
        tap.feed(FILLER)
        assert len(tap._held) <= 24 * 1024
    tap.feed(b"x" * 1_000_000)
    assert len(tap._held) <= 24 * 1024


def test_asking_early_changes_nothing() -> None:
    tap = UsageTap()
    assert tap.tokens() == Tokens()
    tap.feed(DETAILED[:50])
    assert tap.tokens() == Tokens()
    tap.feed(DETAILED[50:])
    assert tap.tokens().completion == 34
