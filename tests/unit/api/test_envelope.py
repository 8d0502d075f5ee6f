"""What routing reads of a JSON body, and what is none."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.api import envelope
from router.api.envelope import Envelope, parse_json
from router.errors import InvalidRequest, UnsupportedEncoding

NINES = b"9" * 4301


@pytest.fixture(params=[False, True], ids=["small", "large"])
def parse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Envelope]:
    """The way of small bodies and, with every body called large, that of large ones."""
    if request.param:
        monkeypatch.setattr(envelope, "_SMALL", -1)
    return parse_json


Parse = Callable[[bytes], Envelope]


def test_only_what_routing_needs_is_read(parse: Parse) -> None:
    found = parse(b'{"model":"m","stream":true,"service_tier":"flex","messages":[1],"max_tokens":5,"n":2}')
    assert found == Envelope("m", stream=True, service_tier="flex", max_tokens=5, n=2)
    assert parse(b"{}") == Envelope(None, stream=False, service_tier=None, max_tokens=None, n=None)


@pytest.mark.parametrize("value", [b"1", b'"true"', b"null", b"[]", b"false"])
def test_only_true_asks_for_a_stream(parse: Parse, value: bytes) -> None:
    assert parse(b'{"stream":' + value + b',"model":"m"}') == Envelope("m")


@pytest.mark.parametrize("value", [1, 1.5, "x", None, True, [1], {"a": 1}, 10**30])
def test_odd_values_are_left_to_those_who_read_them(parse: Parse, value: object) -> None:
    body = json.dumps({"model": value, "service_tier": value, "max_tokens": value, "n": value}).encode()
    assert parse(body) == Envelope(value, stream=False, service_tier=value, max_tokens=value, n=value)


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ('"max_tokens":1,"max_completion_tokens":2,"n_predict":3,"max_output_tokens":4', 1),
        ('"max_output_tokens":4,"n_predict":3,"max_completion_tokens":2', 2),
        ('"max_tokens":null,"max_output_tokens":4,"n_predict":0', 0),
        ('"max_output_tokens":4', 4),
        ('"max_output_tokens":4,"model":[]', 4),
    ],
)
def test_the_most_tokens_by_whatever_name(parse: Parse, fields: str, most: int) -> None:
    assert parse(f"{{{fields}}}".encode()).max_tokens == most


@pytest.mark.parametrize("first", [b'"a"', b"1", b"null", b"[[]]"])
def test_the_last_of_two_models_counts_as_it_does_in_llama_server(parse: Parse, first: bytes) -> None:
    assert parse(b'{"model":' + first + b',"model":"b"}').model == "b"
    assert parse(b'{"model":"b","m\\u006fdel":' + first + b"}").model == json.loads(first)


def test_names_in_other_scripts(parse: Parse) -> None:
    assert parse('{"model":"ünï 模型 😀"}'.encode()).model == "ünï 模型 😀"
    assert parse(b'{"model":"\\ud83d\\ude00","stream":true}').model == "😀"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model":"\xff"}', "not UTF-8 .byte 10"),
        (b'{"a":"' + b"x" * 40_000 + b'\xc3"}', "not UTF-8 .byte 40006"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\xc0\x80"}', "not UTF-8"),
        (b'{"a":"\xe4\xb8', "not UTF-8"),
        (b'\xef\xbb\xbf{"model":"m"}', "not valid JSON"),
        (json.dumps({"model": "m"}).encode("utf-16"), "not UTF-8"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' + NINES + b"}", "too many digits"),
        (b'{"a":-' + NINES + b"}", "too many digits"),
        (b'{"n":' + NINES + b"}", "too many digits"),
        (b'{"a":[' + b"1," * 5000 + b"[" + NINES + b" ],1]}", "too many digits"),
        (b'{"a":"' + NINES + b'","b":' + NINES + b"}", "too many digits"),
        (b'{"a":0.' + NINES + b',"b":' + NINES + b"}", "too many digits"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b'{"a":"\\x"}', "not valid JSON"),
        (b'{"a":"\\ud8zz"}', "not valid JSON"),
        (b'{"model":"m"} x', "not valid JSON"),
    ],
    ids=[
        *("empty", "cut", "list", "string", "null", "utf8", "utf8 far", "surrogate", "overlong", "utf8 cut", "bom"),
        *("utf16", "deep", "digits", "negative", "digits read", "digits far", "digits twice", "digits and float"),
        *("nan", "infinity", "control", "escape", "hex", "rest"),
    ],
)
def test_what_is_no_json_object_is_refused(parse: Parse, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refusal:
        parse(body)
    assert "sys." not in refusal.value.message


@pytest.mark.parametrize(
    "value",
    [
        b'"' + NINES + b'"',
        b'"\\u' + NINES + b'"',
        b'": ' + NINES + b' ,"',
        b"9" * 4300,
        b"0." + NINES,
        NINES + b".5",
        NINES + b"e5",
        b"1e-" + b"0" * 4400,
        b"1E+" + b"0" * 4400,
        b"-1e" + b"0" * 4400,
        b'"\\ud800"',
        b'"\\uDC00\\ud800"',
        b'"\\\\ud800 \\ud800"',
        b"1e999",
        b"[" * 500 + b"]" * 500,
        b" \t\r\n1",
    ],
)
def test_what_python_takes_is_taken(parse: Parse, value: bytes) -> None:
    assert parse(b'{"model":"m","a":' + value + b"}").model == "m"


def test_a_value_longer_than_any_that_means_something_is_not_made(parse: Parse) -> None:
    body = b'{"stream":1,"model":[' + b"0," * 600_000 + b"0]}"
    assert not isinstance(parse(body).model, str | None)


@pytest.mark.parametrize("length", [4300, 4301, 4302, 6143, 6144, 8192, 20_000])
def test_a_long_run_of_digits_is_found_wherever_it_begins(length: int) -> None:
    chance = random.Random(length)
    for _ in range(50):
        before = chance.randrange(9000)
        body = b'{"a":"' + b"x" * before + b'","b":' + b"7" * length + b',"c":"' + b"x" * chance.randrange(5000) + b'"}'
        if length > 4300:
            with pytest.raises(InvalidRequest, match="digits"):
                parse_json(body)
        else:
            parse_json(body)


# -- whatever Python's own decoder says


def judged(body: bytes) -> str:
    """What the standard library says to a body."""
    try:
        found = json.JSONDecoder(parse_constant=int).decode(str(body, "utf-8"))
    except UnicodeDecodeError:
        return "UTF-8"
    except RecursionError:
        return "deep"
    except json.JSONDecodeError:
        return "JSON"
    except ValueError as error:
        return "digits" if "limit" in str(error) else "JSON"
    return "ok" if isinstance(found, dict) else "object"


def told(body: bytes) -> str:
    words = {
        "not UTF-8": "UTF-8",
        "Compressed": "UTF-8",
        "deeply": "deep",
        "not valid JSON": "JSON",
        "digits": "digits",
        "object": "object",
    }
    try:
        parse_json(body)
    except (InvalidRequest, UnsupportedEncoding) as error:
        return next(word for phrase, word in words.items() if phrase in error.message)
    return "ok"


def model_of(body: bytes) -> object:
    return json.loads(body).get("model")


NUMBERS = st.sampled_from(
    ["0", "-0", "1.5", "01", "-", "1.", ".5", "1e5", "1E+05", "1e", "+1", "0x1", "1e400", "-1e-400", "9" * 4400, "NaN"]
)
STRINGS = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ['"\\ud800"', '"\\ud83d\\ude00"', '"\\u12"', '"\\x"', '"\t"', '"\x00"', '"\\u0000"', '"', '"\x7f"']
    ),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null", "nul", "True", "Infinity", "-Infinity", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(st.tuples(STRINGS, inner), max_size=4).map(
            lambda items: "{" + ",".join(f"{key} :{value}" for key, value in items) + "}"
        ),
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(['"model"', '"stream"', '"service_tier"', '"max_tokens"', '"n"', '"a"', '"mod\\u0065l"'])
DOCUMENTS = st.lists(st.tuples(FIELDS, VALUES), max_size=5).map(
    lambda items: ("{" + ", ".join(f"{key}:{value}" for key, value in items) + "}").encode("utf-8", "surrogatepass")
)
CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 2), st.binary(min_size=0, max_size=2)), max_size=3)


def changed(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Some bytes taken out and others put in."""
    for place, gone, new in changes:
        at = place % (len(body) + 1)
        body = body[:at] + new + body[at + gone :]
    return body


@given(DOCUMENTS, CHANGES)
@example(b'{"a":"\\ud800","model":1}', [])
@example(b'{"n":1e400}', [])
@settings(max_examples=400, deadline=None)
def test_it_says_what_python_says(body: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    body = changed(body, changes)
    verdict = judged(body)
    assert told(body) == verdict
    if verdict == "ok":
        assert parse_json(body).model == model_of(body)


@given(DOCUMENTS, CHANGES)
@settings(max_examples=400, deadline=None)
def test_it_accepts_of_large_bodies_what_python_accepts(body: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    body = changed(body, changes)
    whole = envelope._SMALL
    envelope._SMALL = -1
    try:
        assert (told(body) == "ok") == (judged(body) == "ok")
    finally:
        envelope._SMALL = whole


def test_the_limit_of_digits_is_pythons() -> None:
    assert sys.get_int_max_str_digits() == envelope._MOST_DIGITS
