"""Which replica has read the beginning of a prompt already: marks of beginnings, and who knows them."""

from __future__ import annotations

Marks = tuple[int, ...]  # of ever longer beginnings of one text

# Bytes from one mark to the next. What is shorter is read again in no time.
_STEP = 256
# Texts that are alike up to here go to the same replica.
_LONGEST = 64 * 1024
# Conversations that a replica is taken to know: more than its slots and its prompt cache hold.
_KNOWN = 256


def marks_of(text: bytes | memoryview) -> Marks:
    """The marks of a text; empty for one of less than 256 bytes. One that goes on with it has these, and more."""
    marks = []
    mark = 0
    for end in range(_STEP, min(len(text), _LONGEST) + 1, _STEP):
        mark = hash((mark, bytes(text[end - _STEP : end])))
        marks.append(mark)
    return tuple(marks)


class Known:
    """The last texts that one replica was given, each by its last mark; the longest unused is forgotten first."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: dict[int, None] = {}

    def note(self, marks: Marks) -> None:
        """It is given a text with these marks."""
        if not marks:
            return
        known = self._marks
        known.pop(marks[-1], None)
        known[marks[-1]] = None
        if len(known) > _KNOWN:
            del known[next(iter(known))]

    def depth(self, marks: Marks) -> int:
        """How many steps of a text are known; 0 = none."""
        known = self._marks
        return next((depth for depth in range(len(marks), 0, -1) if marks[depth - 1] in known), 0) if known else 0
