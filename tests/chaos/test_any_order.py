"""Kill, stop, load, evict, cancel, reload, flood, disconnect, in any order: nothing is lost, nothing is left."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.machine import AnyOrder
from tests.chaos.world import World

BRIEF = settings(
    max_examples=6,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # each run has its own past, so that nothing is gained by making it smaller
    suppress_health_check=list(HealthCheck),
)


def test_any_order(anything: World) -> None:
    AnyOrder.world = anything
    before = anything.rested_size()
    run_state_machine_as_test(AnyOrder, settings=BRIEF)
    anything.is_as_small_as(before)
