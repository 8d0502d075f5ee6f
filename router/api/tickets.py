"""Single-use tickets for EventSource, which cannot send an `Authorization` header."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from router.errors import Overloaded

LIFETIME_SEC = 60
MAX_OPEN = 1000


class TicketOffice:
    """Issues tickets and takes each back once; only their digests are kept.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float], *, max_open: int = MAX_OPEN) -> None:
        self._clock = clock
        self._max_open = max_open
        self._expiry: dict[bytes, float] = {}  # in order of issue, and so of expiry

    def issue(self) -> str:
        """A new ticket, good for `LIFETIME_SEC`. Raises Overloaded when too many are open."""
        now = self._clock()
        self._drop_expired(now)
        if len(self._expiry) >= self._max_open:
            raise Overloaded(
                f"{self._max_open} stream tickets are open already; each ends within {LIFETIME_SEC} s. Try again then.",
                retry_after=LIFETIME_SEC / 2,
            )
        ticket = secrets.token_urlsafe(32)
        self._expiry[_digest(ticket)] = now + LIFETIME_SEC
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Whether the ticket is good; it is not a second time."""
        expiry = self._expiry.pop(_digest(ticket), None)
        return expiry is not None and self._clock() < expiry

    def void(self) -> None:
        """None of those that are open is good any more: whoever holds one may have lost the key that it stands for."""
        self._expiry.clear()

    def _drop_expired(self, now: float) -> None:
        while self._expiry:
            oldest = next(iter(self._expiry))
            if self._expiry[oldest] > now:
                return
            del self._expiry[oldest]


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
