"""Who has to go so that something else fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def choose_victims(candidates: Sequence[T], enough: Callable[[Sequence[T]], bool]) -> list[T] | None:
    """The victims that make room, or None when even all candidates together do not.

    Args:
        candidates: in the order in which they may be given up, the cheapest first.
        enough: whether giving up these makes room.

    Candidates are taken in order until there is room; then whoever turned out not to be needed is spared, the
    dearest first.
    """
    taken: list[T] = []
    for candidate in candidates:
        if enough(taken):
            break
        taken.append(candidate)
    if not enough(taken):
        return None
    for candidate in reversed(taken[:]):
        without = [other for other in taken if other is not candidate]
        if enough(without):
            taken = without
    return taken
