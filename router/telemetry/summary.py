"""Request records to figures: counts, tokens and percentiles over a window. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from router.telemetry.records import REQUEST_STATUSES, RecentWindow, RequestRecord


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; all None when there was nothing to measure."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one model, or of all together.

    Attributes:
        covered_sec: the window that the figures really cover (see `RecentWindow`).
        requests: count per status, every status present.
        tokens_out_per_sec: throughput over the covered window, idle time included.
        latency, time_to_first_byte: of successful requests, seconds.
    """

    covered_sec: float
    requests: Mapping[str, int]
    tokens_in: int
    tokens_out: int
    tokens_out_per_sec: float
    latency: Percentiles
    time_to_first_byte: Percentiles

    @property
    def total(self) -> int:
        return sum(self.requests.values())


def percentiles(values: Iterable[float]) -> Percentiles:
    """Nearest-rank percentiles: each is a value that was really measured."""
    ordered = sorted(values)
    return Percentiles(_rank(ordered, 50), _rank(ordered, 90), _rank(ordered, 95), _rank(ordered, 99))


def summarise(window: RecentWindow) -> Summary:
    """The figures of one window."""
    counts = dict.fromkeys(REQUEST_STATUSES, 0)
    served: list[RequestRecord] = []
    tokens_in = tokens_out = 0
    for record in window.records:
        counts[record.status] += 1
        tokens_in += record.tokens_in
        tokens_out += record.tokens_out
        if record.status == "success":
            served.append(record)
    first_bytes = (record.time_to_first_byte for record in served)
    return Summary(
        covered_sec=window.covered,
        requests={str(status): count for status, count in counts.items()},
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        tokens_out_per_sec=tokens_out / window.covered if window.covered > 0 else 0.0,
        latency=percentiles(record.duration for record in served),
        time_to_first_byte=percentiles(seconds for seconds in first_bytes if seconds is not None),
    )


def summarise_all(windows: Mapping[str, RecentWindow]) -> tuple[Summary, dict[str, Summary]]:
    """The figures of all models together, and of each."""
    together = RecentWindow(
        tuple(record for window in windows.values() for record in window.records),
        min((window.covered for window in windows.values()), default=0.0),
    )
    return summarise(together), {model: summarise(window) for model, window in windows.items()}


def _rank(ordered: Sequence[float], percent: int) -> float | None:
    if not ordered:
        return None
    return ordered[ceil(percent * len(ordered) / 100) - 1]
