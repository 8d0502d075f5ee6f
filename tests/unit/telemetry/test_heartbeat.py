"""Stalls of the event loop: measured, counted, and spoken of when they are long."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from router.telemetry.heartbeat import Heartbeat
from tests.support.waiting import until


async def test_a_loop_that_stands_still_is_noticed() -> None:
    beat = Heartbeat()
    task = asyncio.create_task(beat.run())
    asyncio.get_running_loop().call_later(0.15, time.sleep, 0.3)  # between two beats
    await until(lambda: beat.stalls.sum > 0)
    assert 0.1 < beat.stalls.sum < 5
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_short_delays_are_nobodys_business() -> None:
    beat = Heartbeat()
    for late in (-0.01, 0.0, 0.05):
        beat.note(late)
    assert sum(beat.stalls.counts) == 0


def test_a_long_one_is_told_and_not_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    beat = Heartbeat()
    with caplog.at_level(logging.WARNING):
        for late in (0.9, 2.5, 3.5):
            beat.note(late)
    assert [record.getMessage() for record in caplog.records] == [
        "the event loop stood still for 2.5 s: the machine has too much to do, or a disk hangs"
    ]


def test_what_is_scraped() -> None:
    beat, registry = Heartbeat(), CollectorRegistry()
    registry.register(beat)
    beat.note(0.3)
    page = generate_latest(registry).decode()
    assert 'router_event_loop_stall_seconds_bucket{le="0.5"} 1.0' in page
    assert "router_event_loop_stall_seconds_sum 0.3" in page
