"""Whether a child computes, from the CPU time of its process."""

from __future__ import annotations

# A server that only answers `/slots` and `/health` takes less than a hundredth of a core.
BUSY_SHARE = 0.1


class Computing:
    """Compares one reading of the CPU time with the last."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def update(self, now: float, seconds: float) -> bool:
        """Whether it has computed since the last reading; the first one tells nothing.

        Args:
            now: monotonic time of the reading.
            seconds: CPU time so far.
        """
        last, self._last = self._last, (now, seconds)
        return last is not None and seconds - last[1] > BUSY_SHARE * (now - last[0])

    def forget(self) -> None:
        """The next reading is a first one."""
        self._last = None
