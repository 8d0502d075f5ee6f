"""Which busy slots of a child move on."""

from __future__ import annotations

from collections.abc import Sequence

from router.engine.ports import SlotReading


class SlotMotion:
    """Compares one reading of the slots with the next.

    Attributes:
        last_moved: when a slot was last seen to move; 0 before.
    """

    def __init__(self) -> None:
        self.last_moved = 0.0
        self._last: dict[int, tuple[int, int]] = {}

    def update(self, busy: Sequence[SlotReading], now: float, *, computes: bool = False) -> set[int]:
        """Ids of the busy slots that have moved since the last reading, those that took up a new task included.

        Of a child that computes (`computes`) so do all, while one reads a prompt: they share its batch, and none shows
        anything before that is done, which takes minutes where a CPU reads ten tokens a second.
        """
        seen = {slot.id: (slot.task, slot.progress) for slot in busy}
        moved = {slot for slot, state in seen.items() if self._last.get(slot) != state}
        if computes and any(slot.reading for slot in busy):
            moved = set(seen)
        self._last = seen
        if moved:
            self.last_moved = now
        return moved
