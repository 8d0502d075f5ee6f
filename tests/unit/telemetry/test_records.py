"""The ring of recent requests."""

import pytest

from router.telemetry.records import RecentRequests, RequestRecord


def record(ended: float, *, model: str = "m") -> RequestRecord:
    return RequestRecord(
        model=model,
        endpoint="/v1/chat/completions",
        status="success",
        started=ended - 1.0,
        first_byte=None,
        ended=ended,
        tokens_in=1,
        tokens_out=2,
        priority="normal",
    )


def ends(recent: RecentRequests, seconds: float, now: float) -> list[float]:
    return [found.ended for found in recent.window(seconds, now)["m"].records]


def test_window_holds_what_ended_within_it_in_order() -> None:
    recent = RecentRequests(["m"], since=0.0)
    for ended in (10.0, 20.0, 30.0):
        recent.add(record(ended))
    assert ends(recent, 10.0, 30.0) == [20.0, 30.0]
    assert ends(recent, 9.9, 30.0) == [30.0]


def test_every_model_has_a_window_and_only_its_own_records() -> None:
    recent = RecentRequests(["m", "other"], since=0.0)
    recent.add(record(5.0))
    assert recent.window(60.0, 10.0)["other"].records == ()
    assert len(recent.window(60.0, 10.0)["m"].records) == 1


def test_a_young_router_covers_less_than_was_asked_for() -> None:
    assert RecentRequests(["m"], since=100.0).window(60.0, 110.0)["m"].covered == 10.0


def test_a_full_ring_forgets_the_oldest_and_says_what_it_covers() -> None:
    recent = RecentRequests(["m"], since=0.0, per_model=2)
    for ended in (10.0, 20.0, 30.0):
        recent.add(record(ended))
    window = recent.window(60.0, 30.0)["m"]
    assert [found.ended for found in window.records] == [20.0, 30.0]
    assert window.covered == 20.0, "a record that ended at 10 is missing"


def test_records_older_than_the_horizon_are_dropped() -> None:
    recent = RecentRequests(["m"], since=0.0, seconds=100.0)
    recent.add(record(10.0))
    recent.add(record(111.0))
    assert ends(recent, 1e9, 111.0) == [111.0]
    assert recent.window(1e9, 111.0)["m"].covered == 100.0


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(KeyError):
        RecentRequests(["m"], since=0.0).add(record(1.0, model="other"))


def test_durations_are_never_negative() -> None:
    odd = RequestRecord("m", "/", "cancelled", 5.0, 4.0, 4.5, 0, 0, "low")
    assert (odd.duration, odd.time_to_first_byte) == (0.0, 0.0)
    assert record(1.0).time_to_first_byte is None
