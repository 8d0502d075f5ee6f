"""What stands for the thread that may wait for a disk."""

from __future__ import annotations

from collections.abc import Callable


def at_once(call: Callable[[], object]) -> bool:
    """It is made before whoever asks goes on."""
    call()
    return True


class StuckDisk:
    """Takes calls, as many as `room`, and makes none before it is released."""

    def __init__(self, room: int = 64) -> None:
        self.calls: list[Callable[[], object]] = []
        self.room = room

    def post(self, call: Callable[[], object]) -> bool:
        if len(self.calls) == self.room:
            return False
        self.calls.append(call)
        return True

    def release(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()
