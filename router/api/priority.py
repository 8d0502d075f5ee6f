"""Which class a request belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from router.core.types import Priority
from router.errors import InvalidRequest

HEADER = "X-Request-Priority"
_RAW_HEADER = HEADER.lower().encode()
_WORDS = {
    b"high": Priority.HIGH,
    b"normal": Priority.NORMAL,
    b"low": Priority.LOW,
    b"1": Priority.HIGH,
    b"2": Priority.NORMAL,
    b"3": Priority.LOW,
}


def priority_of(headers: Mapping[bytes, bytes], service_tier: object = None) -> Priority:
    """The header decides; without it OpenAI's `service_tier` does. Raises InvalidRequest that names the header."""
    told = headers.get(_RAW_HEADER)
    if told is not None:
        found = _WORDS.get(told.strip().lower())
        if found is None:
            shown = told[:40].decode("ascii", "replace")
            raise InvalidRequest(f"{HEADER} is {shown!r}; use one of high, normal, low (or 1, 2, 3).", param=HEADER)
        return found
    if service_tier == "priority":
        return Priority.HIGH
    return Priority.LOW if service_tier == "flex" else Priority.NORMAL
