"""When a conversation is worth being saved."""

from __future__ import annotations

import pytest

from router.backends.save_forecast import DiskPace, Forecast, deadline


def test_nothing_is_known_of_prompts_so_nothing_is_saved() -> None:
    assert not Forecast().is_worth_it(100_000)


def test_the_first_save_is_tried_where_prompts_are_slow() -> None:
    forecast = Forecast()
    forecast.note_prompts(100, 1.0)
    assert forecast.prefill(1200) == pytest.approx(12.0)
    assert forecast.size(1200) == 0
    assert forecast.is_worth_it(1200)
    assert not forecast.is_worth_it(1)  # 10 ms: two calls and a file cost more than a quarter of that


def test_it_may_take_a_quarter_of_what_it_spares() -> None:
    forecast = Forecast(DiskPace(rate=100e6))
    forecast.note_prompts(1000, 4.0)  # 4 ms a token, of which 1 ms may be spent
    forecast.note_save(10, 900_000, 1.0)  # too small to tell of the disk; 90 KB a token, 0.9 ms
    assert forecast.disk.rate == 100e6
    assert forecast.is_worth_it(1000)
    forecast.note_save(10, 990_000, 1.0)
    assert forecast.is_worth_it(1000)
    forecast.note_save(10, 1_100_000, 11e-3)  # 1.1 ms a token, at the old speed of the disk
    assert forecast.disk.rate == 100e6
    assert not forecast.is_worth_it(1000)


def test_a_disk_that_becomes_slow_is_noticed_for_all_models() -> None:
    disk = DiskPace(rate=500e6)
    one, other = Forecast(disk), Forecast(disk)
    one.note_save(1000, 50_000_000, 10.0)
    assert other.disk.rate == pytest.approx(252.5e6)


def test_prompts_of_several_children_count_together() -> None:
    forecast = Forecast()
    forecast.note_prompts(100, 1.0)
    forecast.note_prompts(300, 1.0)
    assert forecast.prefill(1000) == pytest.approx(5.0)


def test_what_was_in_vain_is_not_tried_again() -> None:
    forecast = Forecast(in_vain=True)
    forecast.note_prompts(100, 100.0)
    assert not forecast.is_worth_it(1000)


def test_no_save_takes_longer_than_it_is_worth() -> None:
    assert deadline(4.0) == 1.0
    assert deadline(10_000.0) == 30.0
