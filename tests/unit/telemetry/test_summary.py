"""Figures from request records."""

from hypothesis import given
from hypothesis import strategies as st

from router.telemetry.records import RecentWindow, RequestRecord, RequestStatus
from router.telemetry.summary import Percentiles, percentiles, summarise, summarise_all


def record(status: RequestStatus, *, duration: float = 1.0, first_byte: float | None = 0.5) -> RequestRecord:
    return RequestRecord("m", "/v1/embeddings", status, 0.0, first_byte, duration, 3, 10, "normal")


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles(range(1, 101)) == Percentiles(50, 90, 95, 99)
    assert percentiles([7.0]) == Percentiles(7.0, 7.0, 7.0, 7.0)
    assert percentiles([]) == Percentiles(None, None, None, None)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_never_fall(values: list[float]) -> None:
    found = percentiles(values)
    assert found.p50 is not None
    assert found.p90 is not None
    assert found.p95 is not None
    assert found.p99 is not None
    assert min(values) <= found.p50 <= found.p90 <= found.p95 <= found.p99 <= max(values)


def test_counts_every_status_and_times_only_what_was_served() -> None:
    window = RecentWindow((record("success", duration=2.0), record("cancelled", duration=99.0)), covered=10.0)
    summary = summarise(window)
    assert summary.requests == {"success": 1, "client_error": 0, "server_error": 0, "cancelled": 1}
    assert (summary.tokens_in, summary.tokens_out, summary.tokens_out_per_sec) == (6, 20, 2.0)
    assert summary.latency.p99 == 2.0
    assert summary.time_to_first_byte.p50 == 0.5


def test_an_empty_window_has_no_rate_and_no_percentiles() -> None:
    summary = summarise(RecentWindow((), covered=0.0))
    assert summary.tokens_out_per_sec == 0.0
    assert summary.latency.p50 is None


def test_together_and_apart() -> None:
    full, empty = RecentWindow((record("success"),), covered=60.0), RecentWindow((), covered=30.0)
    overall, models = summarise_all({"a": full, "b": empty})
    assert overall.requests["success"] == 1
    assert overall.covered_sec == 30.0, "both are complete only that far back"
    assert models["a"].requests["success"] == 1
    assert models["b"].requests["success"] == 0
