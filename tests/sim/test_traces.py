"""The real scheduler on the five traces of `benchmarks.swapping`, under the virtual clock."""

from __future__ import annotations

from functools import cache
from statistics import median

import pytest

from benchmarks.simulation import simulate
from benchmarks.traces import SEED, TRACES, Ask, Bound, Loop, Outcome, Trace, answers, longest, p50
from router.core.types import Policy, Priority

SEEDS = 20


@cache
def outcomes(name: str) -> list[Outcome]:
    seeds = SEEDS if TRACES[name](SEED).arrivals else 1
    return [simulate(TRACES[name](SEED + n)) for n in range(seeds)]


def bounds() -> list[object]:
    return [
        pytest.param(name, bound, id=f"{name}-{bound.statistic.__name__}-{bound.label}")
        for name, make in TRACES.items()
        for bound in make(SEED).bounds
    ]


@pytest.mark.parametrize(("name", "bound"), bounds())
def test_a_bound_is_kept(name: str, bound: Bound) -> None:
    figure = median(bound.statistic(outcome, bound.label) for outcome in outcomes(name))
    assert bound.goal.kept(figure, bound.goal.must), figure


def test_the_zipf_trace_of_the_first_seed_is_the_agreed_one() -> None:
    assert len(TRACES["zipf"](SEED).arrivals) == 94


def test_the_agreed_zipf_trace_leaves_the_real_one_room() -> None:
    assert p50(simulate(TRACES["zipf"](SEED)), "all") <= 8, "of 9 s, and real loads are a little longer"


@pytest.mark.parametrize("think", [0.0, 0.02, 0.1, 0.2])
@pytest.mark.parametrize("priority", list(Priority))
def test_two_loops_do_not_thrash(think: float, priority: Priority) -> None:
    loops = tuple(Loop((Ask(model, "both", priority=priority),), think) for model in "ab")
    outcome = simulate(Trace("two", (), loops))
    assert outcome.swaps <= 6
    assert answers(outcome, "both") >= 0.55 * 30 / (0.18 + think)


def test_three_models_in_turn_cost_no_more_than_their_loads() -> None:
    loop = Loop(tuple(Ask(model, "steps", tokens=1) for model in "abc"))
    outcome = simulate(Trace("three in turn", (), (loop,) * 4))
    assert answers(outcome, "steps") >= 4 * 14 - 4, "a load of 2 s for each of 14 rounds, and hardly a linger"


def test_a_client_that_comes_back_later_is_not_waited_for() -> None:
    loops = tuple(Loop((Ask(model, model),), think=1.0) for model in "ab")
    outcome = simulate(Trace("slow thinkers", (), loops))
    assert longest(outcome, "a") < 6
    assert longest(outcome, "b") < 6


def test_a_longer_residency_means_fewer_swaps() -> None:
    loops = tuple(Loop((Ask(model, "both", priority=Priority.HIGH),)) for model in "ab")
    swaps = [simulate(Trace("two", (), loops), Policy(min_residency=sec)).swaps for sec in (0.5, 5.0, 12.0)]
    assert swaps == sorted(swaps, reverse=True)
    assert swaps[0] > 2 * swaps[-1]
