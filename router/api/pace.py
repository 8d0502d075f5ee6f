"""How fast a request's body must come."""

from __future__ import annotations

from router.api.cycle import Cycle

MIN_RATE = 1024  # bytes a second, in the long run


class Pace:
    """A leaky bucket of seconds: time empties it, bytes fill it. So silence is bounded, and a trickle is too.

    Args:
        patience: seconds that it holds.
    """

    __slots__ = ("_credit", "_patience", "_received", "cycle")

    def __init__(self, cycle: Cycle, patience: float) -> None:
        self.cycle = cycle
        self._patience = self._credit = patience
        self._received = cycle.received

    def kept(self, seconds: float) -> bool:
        """Whether the body is still in time, so many seconds after this was asked last."""
        news = self.cycle.received - self._received
        self._received += news
        self._credit = min(self._patience, self._credit - seconds + news / MIN_RATE)
        return self._credit > 0
