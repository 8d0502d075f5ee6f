"""A stream's events and comments, each as soon as it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx

_PLACE = re.compile(rb": ping\b\D*(\d+)\b.*")


def blocks(response: httpx.Response) -> Iterator[bytes]:
    """What stands between empty lines, in order. Raises httpx.RemoteProtocolError when the connection is aborted."""
    rest = b""
    for piece in response.iter_raw():
        *whole, rest = (rest + piece).split(b"\n\n")
        yield from whole
    assert not rest, "the stream ends within an event"


def is_ping(block: bytes) -> bool:
    """Whether this is one comment of ours, and nothing else."""
    return block.startswith(b": ping") and b"\n" not in block


def place(block: bytes) -> int:
    """The position in the queue that a ping tells; 1 = next."""
    found = _PLACE.fullmatch(block)
    assert found, block
    return int(found[1])
