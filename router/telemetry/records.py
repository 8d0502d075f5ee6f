"""What is remembered of each relayed request: one small record, kept for a while in a bounded ring per model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import msgspec

RequestStatus = Literal["success", "client_error", "server_error", "cancelled"]
REQUEST_STATUSES: tuple[RequestStatus, ...] = ("success", "client_error", "server_error", "cancelled")

KEPT_PER_MODEL = 10_000
KEPT_SECONDS = 3600.0


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One relayed request, told once at its end. Times are of the engine's monotonic clock.

    A struct: made in a fraction of a dataclass's time, and nothing for the garbage collector to visit.

    Attributes:
        model: canonical name of a configured model; requests for unknown models are not recorded.
        endpoint: the route, e.g. `/v1/chat/completions`.
        started: when the request's body had arrived.
        first_byte: when the first byte of the answer's body arrived; None when none did.
        tokens_in, tokens_out: as the child reported them; 0 when it did not.
        priority: `high`, `normal` or `low`.
        tokens_cached: of `tokens_in`, those that needed no work.
        prompt_seconds, generation_seconds: what the child was busy with; 0 when it did not say.
        key: name of the key that was shown; empty without one.
    """

    model: str
    endpoint: str
    status: RequestStatus
    started: float
    first_byte: float | None
    ended: float
    tokens_in: int
    tokens_out: int
    priority: str
    tokens_cached: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    key: str = ""

    @property
    def duration(self) -> float:
        return max(0.0, self.ended - self.started)

    @property
    def time_to_first_byte(self) -> float | None:
        return None if self.first_byte is None else max(0.0, self.first_byte - self.started)


@dataclass(frozen=True, slots=True)
class RecentWindow:
    """The records of one model that ended within a window.

    Attributes:
        covered: seconds back from now for which no record is missing; less than the window asked for when the router
            is younger than that, or when the ring was too small for the traffic.
    """

    records: tuple[RequestRecord, ...]
    covered: float


class RecentRequests:
    """The last records of every model: at most `per_model` of them, and none older than `seconds`."""

    def __init__(
        self, models: Iterable[str], *, since: float, per_model: int = KEPT_PER_MODEL, seconds: float = KEPT_SECONDS
    ) -> None:
        self._seconds = seconds
        self._per_model = per_model
        self._rings: dict[str, deque[RequestRecord]] = {model: deque(maxlen=per_model) for model in models}
        self._since = since
        self._complete_since = dict.fromkeys(self._rings, since)

    def adopt(self, model: str) -> None:
        """Keep records of this model too."""
        if model not in self._rings:
            self._rings[model] = deque(maxlen=self._per_model)
            self._complete_since[model] = self._since

    def add(self, record: RequestRecord) -> None:
        """Remember a request. Raises KeyError for a model that is not configured."""
        ring = self._rings[record.model]
        if len(ring) == self._per_model:
            self._complete_since[record.model] = ring[0].ended
        ring.append(record)
        horizon = record.ended - self._seconds
        while ring[0].ended < horizon:
            ring.popleft()

    def window(self, seconds: float, now: float) -> Mapping[str, RecentWindow]:
        """What ended within the last `seconds` before `now`, oldest first, for every model."""
        asked = min(seconds, self._seconds)
        return {model: self._of(model, asked, now) for model in self._rings}

    def _of(self, model: str, seconds: float, now: float) -> RecentWindow:
        newest_first = takewhile(lambda record: record.ended >= now - seconds, reversed(self._rings[model]))
        covered = min(seconds, max(0.0, now - self._complete_since[model]))
        return RecentWindow(tuple(newest_first)[::-1], covered)
