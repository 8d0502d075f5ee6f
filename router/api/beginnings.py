"""The marks of what a request asks, by which a follow-up finds the replica that has read its beginning."""

from __future__ import annotations

import msgspec

from router.core.affinity import Marks, marks_of

# Of a body beyond that, most of it pictures, the marks would cost more than they are worth.
_LARGEST = 8 * 1024 * 1024
_NONE = msgspec.Raw()


class _Text(msgspec.Struct, gc=False):
    """Where each dialect has its text; a conversation that goes on has more of the same behind it."""

    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE


_decode = msgspec.json.Decoder(_Text).decode


def text_marks(body: bytes) -> Marks:
    """The marks of a JSON body's messages, prompt or input; empty for a short or a huge one, or one without."""
    if len(body) > _LARGEST:
        return ()
    try:
        found = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ()  # it is `json`'s kind of JSON alone
    text = memoryview(found.messages or found.prompt or found.input)
    return marks_of(text[:-1])  # without the bracket or the quote in whose place a follow-up has more
