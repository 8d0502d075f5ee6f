"""How many of its model's slots a request takes: one for each answer to each of its prompts."""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from router.api.endpoints import Endpoint
from router.errors import InvalidRequest

# Where `prompt` may be a list of prompts, each of which is a task of its own to llama-server.
_OF_PROMPTS = frozenset(("/v1/completions", "/completion", "/completions"))
# Anthropic's API knows one answer only, whatever else its body says.
_OF_ONE_ANSWER = frozenset(("/v1/messages",))
_LIST = re.compile(rb'"prompt"\s*+:\s*+\[\s*+["[{]')
_OWN_NAME = b'"n_cmpl"'
_ABSENT = Raw(b"")
_NUMBERS = frozenset(b"-0123456789")
# A longer list is taken to have more prompts than there are slots, rather than to be looked through.
_LONGEST_LIST = 256 * 1024
_MOST = 2**31


class _Fields(msgspec.Struct, gc=False):
    prompt: Raw = _ABSENT
    n_cmpl: Raw = _ABSENT


_fields = msgspec.json.Decoder(_Fields).decode
_elements = msgspec.json.Decoder(list[Raw]).decode


def slots_taken(endpoint: Endpoint, body: bytes, n: object, slots: int) -> int:
    """Slots for which a request has to wait.

    Args:
        body: a JSON object that has been found valid.
        n: of the body.
        slots: of its model.

    Raises:
        InvalidRequest: more answers to a prompt than there are slots, which llama-server refuses.
    """
    if not endpoint.generates or endpoint.path in _OF_ONE_ANSWER:
        return 1
    has_list = endpoint.path in _OF_PROMPTS and _LIST.search(body) is not None
    if n is None and not has_list and _OWN_NAME not in body:
        return 1  # nearly every request
    fields = _read(body)
    answers = _number(_value(fields.n_cmpl) if fields.n_cmpl else n)
    if answers > slots:
        raise InvalidRequest(
            f"`n` asks for {answers} answers at once, each in a slot of its own, and this model has {slots} slot(s). "
            f"Ask for {slots} at most, or have the model started with more (-np).",
            param="n",
        )
    return min(slots, answers * (_prompts(fields.prompt, slots) if has_list else 1))


def _read(body: bytes) -> _Fields:
    try:
        return _fields(body)
    except (msgspec.DecodeError, RecursionError):
        return _Fields()  # what only `json` reads is the child's to judge


def _value(raw: Raw) -> object:
    try:
        return msgspec.json.decode(raw, type=int | float | None)
    except msgspec.DecodeError:
        return None


def _number(value: object) -> int:
    """As llama-server reads it; what is none counts as one, and it will say so."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < _MOST:
        return 1
    return int(value)


def _prompts(raw: Raw, slots: int) -> int:
    """How many prompts are in a list; texts with numbers between them are the tokens of one."""
    if len(raw) > _LONGEST_LIST:
        return slots
    try:
        elements = _elements(raw)
    except msgspec.DecodeError:
        return 1  # no list: it was found within another member
    return 1 if any(bytes(element)[0] in _NUMBERS for element in elements) else max(1, len(elements))
