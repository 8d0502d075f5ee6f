"""What is counted of each model: plain numbers that the event loop's thread adds to, turned into samples when scraped.

The client library's own counters take a lock and look labels up at each increment; here one is an addition.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from router.core.types import Priority
from router.engine.ports import CONVERSATION_EVENTS, LOAD_PHASES
from router.telemetry.records import REQUEST_STATUSES, RequestStatus

_WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0)
_FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_LOAD_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0)
_PHASE_BUCKETS = (0.01, 0.025, 0.05, *_LOAD_BUCKETS)


class Spread:
    """How measured values are spread over buckets: a histogram.

    Attributes:
        bounds: upper ends of the buckets, inclusive, rising; beyond the last is one more.
        counts: per bucket, not added up.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Added up and named, as the text format wants them."""
        found: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            found.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]
        return found


class Counts:
    """Everything that is counted of one model since the start.

    Attributes:
        waits: by priority, from the highest down.
    """

    __slots__ = ("conversations", "duration", "evictions", "first_byte", "generation_seconds", "load_phases",
                 "load_seconds", "loads", "prompt_seconds", "recycles", "replays", "requests", "restarts",
                 "tokens_cached", "tokens_in", "tokens_out", "waits")  # fmt: skip

    def __init__(self) -> None:
        self.requests = dict.fromkeys(REQUEST_STATUSES, 0)
        self.replays = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.tokens_cached = 0
        self.prompt_seconds = 0.0
        self.generation_seconds = 0.0
        self.loads = {"success": 0, "failure": 0}
        self.evictions = 0
        self.restarts = 0
        self.recycles = 0
        self.waits = [Spread(_WAIT_BUCKETS) for _ in Priority]
        self.first_byte = Spread(_FIRST_BYTE_BUCKETS)
        self.duration = Spread(_DURATION_BUCKETS)
        self.load_seconds = Spread(_LOAD_BUCKETS)
        self.load_phases = {phase: Spread(_PHASE_BUCKETS) for phase in LOAD_PHASES}
        self.conversations = dict.fromkeys(CONVERSATION_EVENTS, 0)

    @property
    def queue_wait(self) -> dict[str, Spread]:
        return {priority.name.lower(): self.waits[priority - 1] for priority in Priority}


# Name, help, the label beside the model, and the attribute of `Counts`: a dictionary by that label where there is one.
_COUNTERS = (
    ("router_requests_total", "Relayed requests by outcome.", "status", "requests"),
    ("router_replays_total", "Requests asked anew, as their upstream broke before it answered.", "", "replays"),
    ("router_tokens_in_total", "Prompt tokens, as the child reports them.", "", "tokens_in"),
    ("router_tokens_out_total", "Generated tokens, as the child reports them.", "", "tokens_out"),
    ("router_tokens_cached_total", "Prompt tokens found in the child's cache, likewise.", "", "tokens_cached"),
    ("router_prompt_seconds_total", "Time the child took to read prompts, likewise.", "", "prompt_seconds"),
    ("router_generation_seconds_total", "Time it took to write answers, likewise.", "", "generation_seconds"),
    ("router_loads_total", "Finished loads by result.", "result", "loads"),
    ("router_evictions_total", "Unloads that made room for another model.", "", "evictions"),
    ("router_restarts_total", "Restarts after a replica died.", "", "restarts"),
    ("router_recycles_total", "Idle replicas started anew for the RAM they held.", "", "recycles"),
    ("router_conversations_total", "Slots saved before an unload, restored after a load.", "event", "conversations"),
)
_HISTOGRAMS = (
    ("router_queue_wait_seconds", "From arrival to a granted slot, load included.", "priority", "queue_wait"),
    ("router_time_to_first_byte_seconds", "From the request to the answer's first byte.", "", "first_byte"),
    (
        "router_request_duration_seconds",
        "From the request to the answer's end, waiting included.",
        "",
        "duration",
    ),
    ("router_load_seconds", "How long successful loads took.", "", "load_seconds"),
    ("router_load_phase_seconds", "Where their time went.", "phase", "load_phases"),
)


class CountsCollector(Collector):
    """Turns the counts of all models into samples at each scrape, on the thread that adds to them."""

    def __init__(self, models: Mapping[str, Counts]) -> None:
        self._models = models

    def describe(self) -> Sequence[Metric]:
        """Nothing: the registry would otherwise scrape once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, text, label, attribute in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_labels(label))
            for labels, count in self._each(label, attribute):
                counter.add_metric(labels, count)
            yield counter
        for name, text, label, attribute in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, text, labels=_labels(label))
            for labels, spread in self._each(label, attribute):
                histogram.add_metric(labels, spread.buckets(), spread.sum)
            yield histogram

    def _each(self, label: str, attribute: str) -> Iterator[tuple[list[str], Any]]:
        """Every series' label values, and what is counted in it."""
        for model, counts in self._models.items():
            found = getattr(counts, attribute)
            if label:
                yield from (([model, value], part) for value, part in found.items())
            else:
                yield [model], found


class KeyCounts(Collector):
    """Requests by the key that was shown, in the names that the configuration gives them.

    Args:
        names: whose series exist from the start.
    """

    NONE = "-"  # no key's name

    def __init__(self, names: Iterable[str]) -> None:
        self._counts: dict[str, dict[RequestStatus, int]] = {}
        self.adopt((*names, self.NONE))

    def adopt(self, names: Iterable[str]) -> None:
        """Count these too. What was counted of others stays."""
        for name in names:
            self._counts.setdefault(name, dict.fromkeys(REQUEST_STATUSES, 0))

    def add(self, key: str, status: RequestStatus) -> None:
        self._counts[key or self.NONE][status] += 1

    def describe(self) -> Sequence[Metric]:
        """Nothing, as above."""
        return ()

    def collect(self) -> Iterator[Metric]:
        text = "Relayed requests by the name of the key that was shown; - = none was."
        counter = CounterMetricFamily("router_key_requests_total", text, labels=["key", "status"])
        for key, counts in self._counts.items():
            for status, count in counts.items():
                counter.add_metric([key, status], count)
        yield counter


def _labels(label: str) -> list[str]:
    return ["model", label] if label else ["model"]
