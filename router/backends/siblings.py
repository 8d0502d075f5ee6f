"""Which children of one model live beside each other: what they share on disk belongs to one of them alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """One child's place among those of its model.

    Attributes:
        number: the lowest that no other has, from 0.
        alone: no other lived when it came.
    """

    model: str
    number: int
    alone: bool


class Siblings:
    """Hands out places. For one thread."""

    def __init__(self) -> None:
        self._taken: dict[str, set[int]] = {}

    def take(self, model: str) -> Place:
        taken = self._taken.setdefault(model, set())
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        place = Place(model, number, alone=not taken)
        taken.add(number)
        return place

    def leave(self, place: Place) -> None:
        """It lives no more; idempotent."""
        self._taken[place.model].discard(place.number)
