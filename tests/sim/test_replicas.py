"""What several replicas are worth, under the virtual clock: more answers from idle memory, and nobody pays for it."""

from __future__ import annotations

import pytest

from benchmarks.simulation import World, simulate
from benchmarks.traces import Ask, Loop, Outcome, Trace, answers, longest
from router.core.types import HOST, Device, DeviceKind, ModelSpec, Need, Policy
from tests.support.drive import GIB

SIZE = 6
COLD = tuple((at, Ask("cold", "cold")) for at in (10.0, 18.0, 26.0))


def world(*, replicas: int, room: int) -> World:
    """`hot` with so many replicas at most, `cold` with one, and memory for so many of both together."""
    device = Device(HOST, DeviceKind.HOST, None, "RAM", room * SIZE * GIB, room * SIZE * GIB)
    models = [
        ModelSpec("hot", 1, Need(0, SIZE * GIB), max_replicas=replicas),
        ModelSpec("cold", 1, Need(0, SIZE * GIB)),
    ]
    return World(models, policy=Policy(), devices=[device])


def play(crowd: int, *, replicas: int, room: int, beside: tuple[tuple[float, Ask], ...] = ()) -> Outcome:
    loops = tuple(Loop((Ask("hot", "hot"),)) for _ in range(crowd))
    return simulate(Trace("a crowd", (), loops, beside), world=world(replicas=replicas, room=room))


@pytest.mark.parametrize(
    ("crowd", "replicas", "room", "worth"), [(20, 2, 2, 1.8), (20, 4, 2, 1.8), (60, 4, 4, 3.0), (8, 2, 2, 1.0)]
)
def test_a_crowd_gets_more_answers_from_idle_memory(crowd: int, replicas: int, room: int, worth: float) -> None:
    alone = play(crowd, replicas=1, room=room)
    together = play(crowd, replicas=replicas, room=room)
    assert answers(together, "hot") >= worth * answers(alone, "hot")
    assert together.swaps == 0


def test_another_model_hardly_notices() -> None:
    alone = play(20, replicas=1, room=2, beside=COLD)
    together = play(20, replicas=2, room=2, beside=COLD)
    assert longest(alone, "cold") < 3
    assert longest(together, "cold") < 3, "its residency is over, and what it works on ends soon"
    assert together.swaps == 1, "no idle model is evicted for an extra replica"
    assert answers(together, "hot") > 1.2 * answers(alone, "hot")
