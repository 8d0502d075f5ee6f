"""Which requests lose nothing by being asked for as a stream."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

# A slot that writes no more than this is free soon by itself.
SHORT_TOKENS = 256


class _Turn(Struct):
    role: str = ""


class Wish(Struct):
    """What decides it, of a request's JSON; a field of another type than llama.cpp reads is left to its complaint.

    Without a stream llama-server answers one prompt with one object. The stream lacks probabilities and token ids of
    steps that were held back, and fields selected by path; it has more than the document where a line is cut off. The
    beginning of a message that is continued is told or not, depending on the template.
    """

    n: int | None = None
    n_cmpl: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n_predict: int | None = None
    stream: bool | None = None
    stop: str | list[str] | None = None
    stop_sequences: list[str] | None = None
    messages: list[_Turn] | None = None
    prompt: Raw = Raw(b"")
    input: Raw = Raw(b"")
    logprobs: object = None
    n_probs: object = None
    return_tokens: object = None
    response_fields: object = None
    n_indent: object = None
    verbose: object = None
    reasoning_format: object = None
    continue_final_message: object = None


_DECODER = msgspec.json.Decoder(Wish)


def read(body: bytes) -> Wish | None:
    """The wish in a body; None for one that llama-server will complain about."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def short(tokens: object) -> bool:
    """Whether an answer of at most so many tokens is over soon; negative and None = no limit."""
    return isinstance(tokens, int) and 0 <= tokens <= SHORT_TOKENS


def lossless(wish: Wish) -> bool:
    """Whether the stream of this request tells all that its document would."""
    limits = (wish.max_tokens, wish.max_completion_tokens, wish.max_output_tokens, wish.n_predict)
    left_out = (
        wish.stream,
        wish.logprobs,
        wish.n_probs,
        wish.return_tokens,
        wish.response_fields,
        wish.n_indent,
        wish.verbose,
        wish.reasoning_format == "deepseek-legacy",
        wish.continue_final_message,
    )
    return (
        (wish.n or 1) == 1
        and (wish.n_cmpl or 1) == 1
        and not any(map(short, limits))
        and not any(left_out)
        and _has_one_prompt(wish)
        and (bool(wish.prompt) or not (_hold_back(wish.stop) or _hold_back(wish.stop_sequences)))
    )


def _hold_back(stops: str | list[str] | None) -> bool:
    """Whether text is held back when one of these might begin with it; if the answer is cut off then, it never comes.

    Of a text completion the stream shows it, see `text.py`; of a chat it does not.
    """
    words = [stops] if isinstance(stops, str) else stops or []
    return any(len(word) > 1 for word in words)


def _has_one_prompt(wish: Wish) -> bool:
    if wish.messages is not None:
        return bool(wish.messages) and wish.messages[-1].role != "assistant"
    if not wish.prompt:
        return bool(wish.input)
    prompt = bytes(wish.prompt)
    if prompt[0] != ord("["):
        return True
    # A list of tokens is one prompt. To read a million of them would take a while.
    tokens = prompt[1:-1]
    return bool(tokens.strip()) and not any(sign in tokens for sign in (b'"', b"[", b"{"))
