"""What of a large JSON body has to be read in one go.

Nothing else runs while a document is parsed, so its size bounds how long every other request stands still. Large bodies
are large for the media in them: long stretches of base64, which are parts of strings whatever stands around them. Those
are skipped, piece by piece.
"""

from __future__ import annotations

import asyncio
import re

_STRETCH = re.compile(rb"[A-Za-z0-9+/=_-]*")
_SPACING = 16 * 1024  # shorter stretches may be missed
# More than the digits that a number may have, so that one that is too long stays so.
_KEPT = 8 * 1024
_AT_ONCE = 1024 * 1024


async def condensed(body: bytes) -> bytes:
    """The same document with shorter strings; whether it is JSON, and its small values, are those of the body."""
    kept: list[bytes] = []
    start = place = pause = 0
    while place < len(body):
        if place > pause:
            await asyncio.sleep(0)
            pause = place + _AT_ONCE
        end = _end_of_stretch(body, place)
        if end - place < _SPACING:
            place = end + _SPACING
            continue
        if place > start:  # else it goes on with a stretch that has been cut
            kept.append(body[start : place + _KEPT])
        start = place = end
    kept.append(body[start:])
    return b"".join(kept)


def _end_of_stretch(body: bytes, start: int) -> int:
    found = _STRETCH.match(body, start, start + _AT_ONCE)
    return start if found is None else found.end()
