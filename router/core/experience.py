"""What a model has shown so far: how long it loads, how long it works on a request, how often it is asked, and whether
it is asked again at once when it has run dry."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

# A load that was never seen is guessed from the bytes: what a disk gives in a second, and the start of a process.
_BYTES_PER_SEC = 1e9
_SPAWN_SEC = 0.5
# A request that was never seen: a short answer of a middling model.
_SERVICE_SEC = 2.0
# Demand is forgotten by a factor of e in so many seconds.
_MEMORY_SEC = 300.0
# Share of the newest sample in an average.
_NEWEST = 0.25
# Half of what is believed comes from the last time: a client that has changed its ways is noticed after two rounds.
_RETURNS_NEWEST = 0.5
# Less likely than this, the next request is no reason to wait.
_WORTH_LINGERING = 0.5
# The loop's timers and a client's turn-around are of this size even when a client does not think at all.
_SHORTEST_LINGER = 0.05
_LONGEST_LINGER = 0.5
_LINGER_PER_LOAD = 1 / 8


@dataclass(slots=True)
class Average:
    """An exponentially weighted mean that begins with the first sample."""

    value: float | None = None

    def note(self, sample: float) -> None:
        self.value = sample if self.value is None else self.value + _NEWEST * (sample - self.value)


@dataclass(slots=True)
class Returns:
    """Whether, and how soon, the next request comes after a model has run dry.

    Anticipatory scheduling (Iyer & Druschel, SOSP 2001) keeps a disk idle for a moment after a read, since the same
    process is likely to read on nearby. Here the seek is a swap. The gap from running dry to the next request is seen
    whether the model was still there or not, so that the likelihood can be learned without trying.

    Attributes:
        likelihood: of a request within the longest linger, as a moving average of hits and misses.
        mean, deviation: of the gaps that were hits, kept as TCP keeps its round trips (RFC 6298).
        dry_since: when it ran dry, until the next request.
    """

    likelihood: float = 0.75
    mean: float | None = None
    deviation: float = 0.0
    dry_since: float | None = None

    @property
    def is_expected(self) -> bool:
        """Whether it has been asked again at once before, and probably will be, as by a client in a loop."""
        return self.mean is not None and self.likelihood >= _WORTH_LINGERING

    def ran_dry(self, now: float) -> None:
        self.dry_since = now

    def arrived(self, now: float, longest: float) -> None:
        """The first request after it has run dry; `longest` is how long the model might have lingered for it."""
        if self.dry_since is None:
            return
        gap, self.dry_since = now - self.dry_since, None
        hit = gap <= longest
        self.likelihood += _RETURNS_NEWEST * (hit - self.likelihood)
        if hit:
            self._note(gap)

    def linger(self, longest: float) -> float:
        """Seconds after running dry for which it is worth waiting; 0 = not at all."""
        if self.likelihood < _WORTH_LINGERING:
            return 0.0
        if self.mean is None:
            return min(longest, _SHORTEST_LINGER)
        return min(longest, max(_SHORTEST_LINGER, self.mean + 4 * self.deviation))

    def _note(self, gap: float) -> None:
        if self.mean is None:
            self.mean, self.deviation = gap, gap / 2
        else:
            self.deviation += _NEWEST * (abs(gap - self.mean) - self.deviation)
            self.mean += _NEWEST * (gap - self.mean)


@dataclass(slots=True)
class Experience:
    """What one model has shown. All durations are seconds; `size` is what it is expected to take, in bytes."""

    size: int
    load: Average = field(default_factory=Average)
    service: Average = field(default_factory=Average)
    returns: Returns = field(default_factory=Returns)
    _demand: float = 0.0
    _demand_at: float = 0.0

    def begin_anew(self, size: int, load_seconds: float | None) -> None:
        """The model is another now, asked for as before: what is known of its speed does not hold any more."""
        self.size, self.load, self.service = size, Average(load_seconds), Average()

    @property
    def load_seconds(self) -> float:
        """From the start of a child to READY: measured, else guessed from the size."""
        return self.load.value if self.load.value is not None else _SPAWN_SEC + self.size / _BYTES_PER_SEC

    @property
    def service_seconds(self) -> float:
        """How long a request keeps a slot."""
        return self.service.value if self.service.value is not None else _SERVICE_SEC

    @property
    def longest_linger(self) -> float:
        return min(_LONGEST_LINGER, self.load_seconds * _LINGER_PER_LOAD)

    def arrived(self, now: float) -> None:
        """A request came."""
        self._demand = self.demand(now) + 1.0
        self._demand_at = now
        if self.returns.dry_since is not None:
            self.returns.arrived(now, self.longest_linger)

    def demand(self, now: float) -> float:
        """Requests of late: each counts 1 when it comes, and is forgotten bit by bit."""
        return self._demand * math.exp((self._demand_at - now) / _MEMORY_SEC)

    def lingers_until(self, waiting: float) -> float:
        """When a model that has run dry is not worth waiting for any longer; minus infinity when it never was.

        Its likely return saves one load; the linger costs each of those who wait elsewhere (`waiting` of them, by
        weight) its length.
        """
        returns = self.returns
        linger = returns.linger(self.longest_linger)
        if returns.dry_since is None or returns.likelihood * self.load_seconds <= waiting * linger:
            return -math.inf
        return returns.dry_since + linger


class Pace:
    """What loads and requests take. What a model has not shown yet is the mean of those that have, else a guess."""

    def __init__(self, seen: Iterable[Experience]) -> None:
        seen = tuple(seen)
        self._load = _mean(one.load for one in seen)
        self._service = _mean(one.service for one in seen)

    def load(self, seen: Experience) -> float:
        """Seconds from the start of a child to READY."""
        return seen.load_seconds if seen.load.value is not None or self._load is None else self._load

    def service(self, seen: Experience) -> float:
        """Seconds for which a request keeps a slot."""
        return seen.service_seconds if seen.service.value is not None or self._service is None else self._service


def _mean(averages: Iterable[Average]) -> float | None:
    values = [one.value for one in averages if one.value is not None]
    return fmean(values) if values else None
