"""Which class a request belongs to."""

from __future__ import annotations

from collections.abc import Iterable

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


def priority_of(headers: Iterable[tuple[bytes, bytes]], service_tier: object = None) -> Priority:
    """The header decides; without it OpenAI's `service_tier` does. Raises InvalidRequest that names the header."""
    told = [value for name, value in headers if name == _RAW_HEADER]
    if len(told) > 1:
        raise InvalidRequest(f"{HEADER} comes {len(told)} times; send it once.", param=HEADER)
    if told:
        found = _WORDS.get(told[0].strip().lower())
        if found is None:
            shown = told[0][:40].decode("ascii", "replace")
            raise InvalidRequest(f"{HEADER} is {shown!r}; use high, normal or low (or 1, 2, 3).", param=HEADER)
        return found
    if service_tier == "priority":
        return Priority.HIGH
    return Priority.LOW if service_tier == "flex" else Priority.NORMAL
