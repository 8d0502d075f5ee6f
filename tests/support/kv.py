"""Files like those of llama-server's slot save."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def kv_bytes(words: Sequence[int], *, padding: int = 0) -> bytes:
    """A file with these words for a prompt, and `padding` bytes for what they stand for."""
    return struct.pack(f"<4sII{len(words)}I", b"qsgg", 2, len(words), *words) + bytes(padding)
