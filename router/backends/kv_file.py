"""The prompt at the head of a file that llama-server's slot save wrote.

Layout (little endian, `llama_context::state_seq_save_file`): magic `qsgg`, version, a count of words, and that many
words. Since 2026 these are -1, a version, the number of tokens, the tokens, and what is known of images
(`server_tokens::serialize`); before, they were the tokens alone.
"""

from __future__ import annotations

import struct
import sys
from array import array
from pathlib import Path
from typing import TypeAlias

_MAGIC = b"qsgg"
_HEAD = struct.Struct("<4sII")
_PACKED = 0xFFFFFFFF
_MAX_WORDS = 4 * 1024 * 1024
# Two prompts are one conversation if no more of the shorter one differs: its last answer may be read back differently.
_DIFFERENT_SHARE = 0.1

Prompt: TypeAlias = "array[int]"


def prompt_of(path: Path) -> Prompt | None:
    """The tokens of a saved slot; None where they cannot be told, as with images. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        magic, _, count = _HEAD.unpack(head)
        if magic != _MAGIC or count > _MAX_WORDS:
            return None
        raw = file.read(4 * count)
    if len(raw) < 4 * count:
        return None
    words = array("I", raw)
    if sys.byteorder == "big":
        words.byteswap()
    return _tokens(words)


def continues(longer: Prompt, shorter: Prompt) -> bool:
    """Whether the one prompt begins with the other, but for a little at its end."""
    return shared(longer, shorter) >= (1 - _DIFFERENT_SHARE) * len(shorter)


def shared(one: Prompt, other: Prompt) -> int:
    """How many tokens both begin with."""
    least, most = 0, min(len(one), len(other))
    while least < most:  # slices compare at the speed of memory, single tokens at that of Python
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def _tokens(words: Prompt) -> Prompt | None:
    if not words or words[0] != _PACKED:
        return words
    if len(words) < 3 or words[2] > len(words) - 3:
        return None
    count = words[2]
    further = words[3 + count :]
    return None if any(further) else words[3 : 3 + count]
