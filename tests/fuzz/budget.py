"""How long a round of fuzzing goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from time import monotonic


@dataclass(frozen=True, slots=True)
class Budget:
    """A number of tries (the same ones each time), or seconds."""

    tries: int | None = None
    seconds: float | None = None

    def __iter__(self) -> Iterator[int]:
        """The number of each try, while there is one more."""
        end = None if self.seconds is None else monotonic() + self.seconds
        for number in range(self.tries) if self.tries is not None else count():
            if end is not None and monotonic() >= end:
                return
            yield number
