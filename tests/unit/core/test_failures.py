"""Models that keep failing: pauses, the end of patience, and what is forgiven. All under a clock of the test's own."""

from __future__ import annotations

import pytest

from router.core.failures import FailureRecord
from router.core.types import Policy, Status
from tests.support.drive import Drive, cpu_model


def test_pauses_double_up_to_a_cap() -> None:
    record, now, pauses = FailureRecord(Policy(failure_limit=12)), 0.0, []
    while (again := record.note(now)) is not None:
        pauses.append(again - now)
        now = again
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_crash_loop_spawns_five_times_and_ends() -> None:
    drive = Drive([cpu_model("a")])
    drive.rest("a")
    for _ in range(100):
        drive.sleep(5)
        if drive.status("a") is Status.READY:
            drive.exit("a", "killed")
        elif drive.status("a") is Status.LOADING:
            drive.ready("a")
    assert len(drive.started) == 5
    assert drive.status("a") is Status.FAILED


@pytest.mark.parametrize(("healthy", "forgotten"), [(299, False), (301, True)])
def test_failures_are_forgotten_after_ten_healthy_minutes(healthy: float, forgotten: bool) -> None:
    drive = Drive([cpu_model("a")])
    for _ in range(4):
        drive.load("a")
        drive.exit("a", "broken")
    drive.load("a")
    for _ in range(2):
        drive.ready("a")
        drive.sleep(healthy)
        drive.exit("a", "killed")  # restarts at once, uncounted
    drive.exit("a", "broken")
    assert drive.status("a") is Status.FAILED
    assert (drive.scheduler.view("a", drive.now).retry_at is not None) is forgotten


def test_time_alone_forgives_nothing() -> None:
    drive = Drive([cpu_model("a")])
    for _ in range(5):
        drive.load("a")
        drive.sleep(700)
        drive.exit("a", "was not ready within 600 s")
    assert drive.status("a") is Status.FAILED
