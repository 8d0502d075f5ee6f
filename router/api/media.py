"""Addresses of media in a request: llama-server fetches them, from wherever they say, so they are refused.

What is read is what llama-server reads (`handle_media` and `tools/server/server-chat.cpp` of llama.cpp b11434): a part
of a message, in whatever dialect and at whatever depth, whose `type` is one of those below and whose picture, sound or
film begins with `http`, exactly so. It matters what a document says, not how it is spelled: escapes in names and
addresses, and a name that stands twice (the last one counts, there as here).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from router.errors import InvalidRequest, RemoteMediaRefused

# Where a part of each type has what it shows: the text itself, or an object with it as its `url` or `data`.
_MEMBERS: Mapping[str, str] = {
    "image": "source",  # Anthropic's
    "image_url": "image_url",
    "input_audio": "input_audio",
    "input_image": "image_url",  # of the Responses API
    "input_video": "input_video",
    "video_url": "video_url",
}
_FIELDS = ("url", "data")
_REMOTE = "http"
# A document with such a part has one of each, if it has no escape of a letter.
_ADDRESS = re.compile(rb'"(?:h|\\u0068)(?:t|\\u0074){2}(?:p|\\u0070)')
_TYPE = re.compile(rb'"(?:' + "|".join(_MEMBERS).encode() + rb')"')
_ESCAPE = re.compile(rb"\\u00[4-7]")
# A document with more of these is not made into objects, which takes up to 0.2 µs of each: nothing else runs
# meanwhile.
_MARKS = b"{[:,"
_MOST_MARKS = 200_000
_LONGEST_PLACE = 200
_BOM = b"\xef\xbb\xbf"  # llama-server reads on behind it

_Items = Iterator[tuple[Any, Any]]  # keys and values


def refuse_remote_media(text: bytes) -> None:
    """Check a body for a model that sees or hears.

    Args:
        text: the body; long stretches of base64 may have been left out of its strings.

    Raises:
        RemoteMediaRefused: it names media by an address.
        InvalidRequest: it may well do so, and cannot be read to the end.
    """
    if _ADDRESS.search(text) is None or (_TYPE.search(text) is None and _ESCAPE.search(text) is None):
        return
    if len(text) - len(text.translate(None, _MARKS)) > _MOST_MARKS:
        raise InvalidRequest("A body with this many values cannot be looked through for addresses of media. Send less.")
    try:
        document = msgspec.json.decode(text.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("The body cannot be looked through for addresses of media: its JSON is odd.") from error
    if (place := _remote_place(document)) is not None:
        raise RemoteMediaRefused(
            "Media are not fetched from addresses here: this names one by http:// or https://. Send the picture, sound "
            "or film itself, as a data: URL; or the operator allows it with api.allow_remote_media.",
            param=place,
        )


def _remote_place(document: Any) -> str | None:
    """Where the first address stands, as `messages[0].content[1].image_url.url`; None = there is none."""
    keys: list[str | int] = []
    levels: list[_Items] = [iter([("", document)])]
    while levels:
        for key, value in levels[-1]:
            if type(value) is dict:
                keys.append(key)
                if (found := _remote_member(value)) is not None:
                    return _told([*keys[1:], *found])
                levels.append(iter(value.items()))
                break
            if type(value) is list:
                keys.append(key)
                levels.append(iter(enumerate(value)))
                break
        else:
            levels.pop()
            del keys[-1:]
    return None


def _remote_member(part: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Where in a part an address stands; None if this is no part that shows anything, or shows it itself."""
    kind = part.get("type")
    member = _MEMBERS.get(kind) if isinstance(kind, str) else None
    if member is None:
        return None
    shown = part.get(member)
    if _is_remote(shown):
        return (member,)
    if isinstance(shown, dict):
        return next(((member, field) for field in _FIELDS if _is_remote(shown.get(field))), None)
    return None


def _is_remote(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_REMOTE)


def _told(keys: Iterable[str | int]) -> str:
    path = "".join([f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys])
    return path.removeprefix(".")[-_LONGEST_PLACE:]
