"""What is foretold of waits, beside what they came to."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median, quantiles

from benchmarks.simulation import World, room_for_one, simulate
from benchmarks.traces import SEED, Ask, agents, zipf
from router.core.types import Policy, TicketId

_WORTH_SAYING_SEC = 1.0  # what waits for less is hardly told how long


class Oracle(World):
    """Asks how long each request will wait, and notes what was foretold of those that waited for more than a moment."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.ratios: list[float] = []  # what was foretold, as multiples of what it came to

    def ask(self, ask: Ask, done: Callable[[bool], None], *, patience: float = 3600.0) -> TicketId:
        since = self.now
        told: list[float] = []

        def over(answered: bool) -> None:
            waited = self.now - since - ask.seconds
            if told and waited > _WORTH_SAYING_SEC:
                self.ratios.append(told[0] / waited)
            done(answered)

        ticket = super().ask(ask, over, patience=patience)
        place = self.scheduler.place(ticket, self.now)
        if place is not None:
            told.append(place.expected_wait)
        return ticket


def test_most_waits_for_models_in_turn_are_foretold_within_a_quarter() -> None:
    ratios: list[float] = []
    for seed in range(SEED, SEED + 5):
        world = room_for_one((trace := zipf(seed)).models, Policy(), Oracle)
        simulate(trace, world=world)
        ratios += world.ratios
    assert len(ratios) > 300
    lower, middle, upper = quantiles(ratios, n=4)
    assert 0.75 < lower < middle < upper < 1.25


def test_clients_that_alternate_are_told_what_comes() -> None:
    world = room_for_one((trace := agents()).models, Policy(), Oracle)
    simulate(trace, world=world)
    assert 0.9 < median(world.ratios) < 1.1
