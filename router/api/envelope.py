"""What routing reads of a JSON body; the whole of it is validated, and of the rest nothing is made.

The judge of what is JSON is the standard library's `json`, strict, in UTF-8, of at most 4,300 digits to an integer and
without NaN. msgspec's decoder agrees with it about skipped fields but for three things (a differential test holds it
to that): it does not look at UTF-8, takes integers of any length, and refuses an escaped surrogate without its other
half. It takes a tenth of the time, since it makes no objects of what it skips.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import NoReturn

import msgspec

from router.errors import InvalidRequest, UnsupportedEncoding

# Up to here `json` has the last word on what msgspec refuses; beyond, its objects would hold the loop for seconds.
_SMALL = 1024 * 1024
_LONGEST_VALUE = 1024
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # how gzip and zstd begin; nothing in UTF-8 does
_UTF8_STEP = 16 * 1024
_MOST_DIGITS = 4300
# Of a run of more than 4,300 digits at least two neighbours of every 2,048th byte are a part.
_STRIDE = 2048
_NEIGHBOURS = re.compile(rb"[0-9](?=[0-9])")
_DIGITS = re.compile(rb"[0-9]*")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """Any value may be what a client put there; None where it put nothing. Of two fields of a name the last one counts.

    A struct, since it is made in a fraction of a dataclass's time, once for each request.

    Attributes:
        stream: true only if the client said exactly that.
        service_tier: OpenAI's word for a class of service.
        max_tokens: the first that is there of `max_tokens`, `max_completion_tokens`, `n_predict` and
            `max_output_tokens`.
        n: how many choices.
    """

    model: object = None
    stream: bool = False
    service_tier: object = None
    max_tokens: object = None
    n: object = None


_Number = int | float | str | None


class _Usual(msgspec.Struct, gc=False):
    """The fields as nearly all clients send them."""

    model: str | None = None
    stream: bool | None = None
    service_tier: str | None = None
    max_tokens: _Number = None
    max_completion_tokens: _Number = None
    n_predict: _Number = None
    max_output_tokens: _Number = None
    n: _Number = None


_NULL = msgspec.Raw(b"null")


class _Odd(msgspec.Struct):
    """The same fields, of whatever type and size."""

    model: msgspec.Raw = _NULL
    stream: msgspec.Raw = _NULL
    service_tier: msgspec.Raw = _NULL
    max_tokens: msgspec.Raw = _NULL
    max_completion_tokens: msgspec.Raw = _NULL
    n_predict: msgspec.Raw = _NULL
    max_output_tokens: msgspec.Raw = _NULL
    n: msgspec.Raw = _NULL


_decode_usual = msgspec.json.Decoder(_Usual).decode
_decode_odd = msgspec.json.Decoder(_Odd).decode


def parse_json(body: bytes) -> Envelope:
    """Understand a JSON body. Raises InvalidRequest for anything that is not a JSON object in UTF-8, and
    UnsupportedEncoding for what was compressed.
    """
    if not body.isascii():
        _check_utf8(body)
    if len(body) > _SMALL:
        return _large(body)
    try:
        found = _decode_usual(body)
    except (msgspec.DecodeError, RecursionError):
        return _exactly(body)
    if len(body) > _MOST_DIGITS:
        _check_integers(body)
    most: object = found.max_tokens
    if most is None:
        most = _first(found.max_completion_tokens, found.n_predict, found.max_output_tokens)
    return Envelope(found.model, found.stream is True, found.service_tier, most, found.n)


def _exactly(body: bytes) -> Envelope:
    """By the judge himself."""
    try:
        found = _JUDGE.decode(str(body, "utf-8"))
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    except ValueError as error:
        raise _too_many_digits() from error
    if not isinstance(found, dict):
        raise _no_object()
    return _envelope(found)


def _large(body: bytes) -> Envelope:
    """Without any of `json`'s objects. A value that is longer than any that means something is left as it is."""
    try:
        found = _odd(body)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.ValidationError as error:
        raise _no_object() from error
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequest(f"The body is not valid JSON: {reason}.") from error
    _check_integers(body)
    raw: dict[str, msgspec.Raw] = msgspec.structs.asdict(found)
    return _envelope({name: _value(value) for name, value in raw.items()})


def _odd(body: bytes) -> _Odd:
    try:
        return _decode_odd(body)
    except msgspec.DecodeError:
        # The escapes of surrogates become those of private characters, which need no other half. A model whose name
        # is written with some is then not found.
        tame = body.replace(rb"\ud", rb"\ue").replace(rb"\uD", rb"\uE")
        if tame is body:
            raise
        return _decode_odd(tame)


def _value(raw: msgspec.Raw) -> object:
    return _JUDGE.decode(str(raw, "utf-8")) if len(raw) <= _LONGEST_VALUE else raw


def _envelope(fields: dict[str, object]) -> Envelope:
    get = fields.get
    most = _first(get("max_tokens"), get("max_completion_tokens"), get("n_predict"), get("max_output_tokens"))
    return Envelope(get("model"), get("stream") is True, get("service_tier"), most, get("n"))


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _check_utf8(body: bytes) -> None:
    """Raises InvalidRequest, UnsupportedEncoding. In small steps, as their texts stay in the processor's cache."""
    done = 0
    try:
        while done < len(body):
            step = body[done : done + _UTF8_STEP]
            done += codecs.utf_8_decode(step, "strict", done + len(step) == len(body))[1]
    except UnicodeDecodeError as error:
        if body.startswith(_COMPRESSED):
            raise UnsupportedEncoding("Compressed bodies are not accepted; send the body as it is.") from error
        raise InvalidRequest(f"The body is not UTF-8 (byte {done + error.start}).") from error


def _check_integers(body: bytes) -> None:
    """Raises InvalidRequest if a document, otherwise valid, holds an integer that Python would not read."""
    runs = _long_runs(body)
    if not runs:
        return
    # A letter in its midst makes a number invalid and does nothing to a string, so the decoder tells which it was.
    changed = bytearray(body)
    for start, end in runs:
        if not _of_a_float(body, start, end):
            changed[start + 8] = ord("x")
    try:
        _odd(bytes(changed))
    except msgspec.DecodeError as error:
        raise _too_many_digits() from error


def _long_runs(body: bytes) -> list[tuple[int, int]]:
    """Where more than 4,300 digits follow each other."""
    runs: list[tuple[int, int]] = []
    end = 0
    for found in _NEIGHBOURS.finditer(body[::_STRIDE]):
        place = found.start() * _STRIDE
        if place < end or not (stretch := body[place : place + _STRIDE]).isdigit():
            continue
        before = body[max(0, place - _STRIDE) : place]
        start = place - len(before) + len(before.rstrip(b"0123456789"))
        matched = _DIGITS.match(body, place + len(stretch))
        end = matched.end() if matched else len(body)
        if end - start > _MOST_DIGITS:
            runs.append((start, end))
    return runs


def _of_a_float(body: bytes, start: int, end: int) -> bool:
    """Of a float's digits Python takes any number."""
    before = body[max(0, start - 2) : start]
    return body[end : end + 1] in {b".", b"e", b"E"} or before.endswith((b".", b"e", b"E", b"+", b"e-", b"E-"))


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not valid JSON: {name} is not a number of JSON.")


_JUDGE = json.JSONDecoder(parse_constant=_no_constant)  # `json.loads` would make one for each call


def _too_deep() -> InvalidRequest:
    return InvalidRequest("The body's JSON is nested too deeply.")


def _too_many_digits() -> InvalidRequest:
    return InvalidRequest("The body holds a number with too many digits.")


def _no_object() -> InvalidRequest:
    return InvalidRequest("The body must be a JSON object.")
