"""Work for several models that want the same memory: who asks for what, and when. Played for real, or simulated.

A closed loop asks, waits for the whole answer, thinks, and asks again. An open arrival comes whatever the others do.
All loops of a trace begin at once; one that is not said to think asks again at once, which is the hardest case.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Goal
from router.core.types import Priority

SECONDS = 30.0
LOAD_SEC = 2.0
TOKEN_SEC = 0.025  # between two of them
PREFILL_SEC = 0.005  # before the first
SEED = 7
_TOKENS = 8
_ARRIVALS_PER_SEC = 3.0
_ZIPF_MODELS = 5
_ZIPF_EXPONENT = 1.1


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `label` says under which name its wait is counted, `width` how many slots it takes."""

    model: str
    label: str
    tokens: int = _TOKENS
    priority: Priority = Priority.NORMAL
    width: int = 1

    @property
    def seconds(self) -> float:
        """How long a slot works on it."""
        return PREFILL_SEC + (self.tokens - 1) * TOKEN_SEC


@dataclass(frozen=True, slots=True)
class Loop:
    """A client that asks these in turn, for ever, and thinks so long after each answer."""

    asks: tuple[Ask, ...]
    think: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """What a request met with: seconds until its answer was whole, or until the end of the trace."""

    label: str
    seconds: float
    answered: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trace led to. `swaps` are loads that took another model's place."""

    waits: tuple[Wait, ...]
    swaps: int

    def of(self, label: str) -> list[float]:
        return sorted(wait.seconds for wait in self.waits if wait.label == label)

    def answers(self, label: str) -> int:
        return sum(wait.answered for wait in self.waits if wait.label == label)


Statistic = Callable[[Outcome, str], float]


def answers(outcome: Outcome, label: str) -> float:
    return outcome.answers(label)


def unanswered(outcome: Outcome, label: str) -> float:
    return len(outcome.of(label)) - outcome.answers(label)


def p50(outcome: Outcome, label: str) -> float:
    return median(outcome.of(label))


def p95(outcome: Outcome, label: str) -> float:
    """By the nearest rank."""
    waits = outcome.of(label)
    return waits[min(len(waits) - 1, int(0.95 * len(waits)))]


def longest(outcome: Outcome, label: str) -> float:
    return outcome.of(label)[-1]


@dataclass(frozen=True, slots=True)
class Bound:
    """One figure of a trace that has to be reached."""

    label: str
    statistic: Statistic
    goal: Goal


@dataclass(frozen=True, slots=True)
class Trace:
    """Attributes:
    arrivals: open ones, in order of time.
    to_the_end: play on until all are answered, in place of stopping after SECONDS.
    """

    name: str
    bounds: tuple[Bound, ...]
    loops: tuple[Loop, ...] = ()
    arrivals: tuple[tuple[float, Ask], ...] = ()
    to_the_end: bool = False

    @property
    def models(self) -> tuple[str, ...]:
        asked = [ask for loop in self.loops for ask in loop.asks] + [ask for _, ask in self.arrivals]
        return tuple(sorted({ask.model for ask in asked}))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(bound.label for bound in self.bounds))


def two_loops() -> Trace:
    loops = tuple(Loop((Ask(model, "both"),)) for model in ("a", "b"))
    bounds = (Bound("both", answers, _at_least(100)), Bound("both", longest, _at_most(14)))
    return Trace("two closed loops, a model each", bounds, loops)


def hot_and_cold() -> Trace:
    hot, cold = Loop((Ask("hot", "hot"),)), Loop((Ask("cold", "cold"),), think=8.0)
    bounds = (Bound("cold", longest, _at_most(13.5)), Bound("hot", answers, _at_least(100)))
    return Trace("three keep one hot, another each 8 s", bounds, (hot, hot, hot, cold))


def zipf(seed: int = SEED) -> Trace:
    draw = random.Random(seed)
    models = [f"m{number}" for number in range(1, _ZIPF_MODELS + 1)]
    weights = [number**-_ZIPF_EXPONENT for number in range(1, _ZIPF_MODELS + 1)]
    arrivals: list[tuple[float, Ask]] = []
    at = 0.0
    while at < SECONDS:
        arrivals.append((at, Ask(draw.choices(models, weights)[0], "all")))
        at += draw.expovariate(_ARRIVALS_PER_SEC)
    bounds = (
        Bound("all", unanswered, _at_most(0)),
        Bound("all", p50, _at_most(9)),
        Bound("all", p95, _at_most(20)),
    )
    return Trace("five models, Zipf, 3 arrivals/s", bounds, arrivals=tuple(arrivals), to_the_end=True)


def priorities() -> Trace:
    low = Loop((Ask("same", "low", 16, Priority.LOW),))
    same = Loop((Ask("same", "high, same model", priority=Priority.HIGH),), think=1.0)
    other = Loop((Ask("other", "high, other model", priority=Priority.HIGH),), think=5.0)
    bounds = (
        Bound("high, same model", p50, _at_most(0.8)),
        Bound("high, other model", p50, _at_most(5.5)),
        Bound("high, other model", longest, _at_most(10.5)),
        Bound("low", answers, _at_least(25)),
    )
    return Trace("six low saturate one model, high beside", bounds, (low,) * 6 + (same, other))


def agents() -> Trace:
    loop = Loop((Ask("embedding", "steps", 1), Ask("chat", "steps")))
    return Trace("four agents alternate two models", (Bound("steps", answers, _at_least(48)),), (loop,) * 4)


# Of each name, the trace for a seed; only Zipf depends on it.
TRACES: Mapping[str, Callable[[int], Trace]] = {
    "loops": lambda _: two_loops(),
    "hot": lambda _: hot_and_cold(),
    "zipf": zipf,
    "priorities": lambda _: priorities(),
    "agents": lambda _: agents(),
}


def _at_least(value: float) -> Goal:
    return Goal("at least", value)


def _at_most(value: float) -> Goal:
    return Goal("at most", value)
