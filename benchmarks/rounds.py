"""One kind of work, done by every contender in turn, round after round, so that a noisy minute hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import uvloop

from benchmarks import load
from benchmarks.contenders import Contender
from benchmarks.script import CHUNKS, Plan

_WARM_UP_SEC = 0.3


@dataclass(frozen=True, slots=True)
class Work:
    """Attributes:
    units: of one answer: its chunks, or 1 when whole answers are counted.
    """

    name: str
    stream: bool
    connections: int

    @property
    def units(self) -> int:
        return CHUNKS if self.stream else 1

    @property
    def plan(self) -> Plan:
        return Plan(self.stream, CHUNKS, pause=0)


STREAMS = Work(f"SSE, 32 streams, {CHUNKS} chunks each", stream=True, connections=32)
DOCUMENTS = Work("JSON, 32 connections", stream=False, connections=32)
ONE_DOCUMENT = Work("JSON, 1 connection", stream=False, connections=1)
ONE_STREAM = Work("SSE, 1 stream", stream=True, connections=1)


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's share of one round.

    Attributes:
        rate: units per second.
        cpu: seconds of the relay's CPU per unit.
        busy: share of its core that the relay used; well below 1 = something else was the limit.
        wait: median seconds to an answer's first byte.
    """

    rate: float
    cpu: float
    busy: float
    wait: float


Samples = Mapping[str, Sequence[Sample]]


def measure(contender: Contender, work: Work, seconds: float) -> Sample:
    """Raises load.BadAnswer when a single answer is wrong."""
    before = contender.cpu_seconds()
    target = contender.target(stream=work.stream)
    tally = uvloop.run(load.run(target, work.plan, connections=work.connections, seconds=seconds))
    cpu = contender.cpu_seconds() - before
    units = tally.answers * work.units
    return Sample(units / tally.seconds, cpu / units, cpu / tally.seconds, median(tally.waits))


def interleaved(contenders: Sequence[Contender], work: Work, *, rounds: int, seconds: float) -> Samples:
    """Samples by contender; the first ones of a round belong to the same moment, and so on."""
    for contender in contenders:
        measure(contender, work, _WARM_UP_SEC)
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            samples[contender.name].append(measure(contender, work, seconds))
    return samples


def middle(samples: Sequence[Sample]) -> Sample:
    """The median of each figure."""
    return Sample(
        rate=median(sample.rate for sample in samples),
        cpu=median(sample.cpu for sample in samples),
        busy=median(sample.busy for sample in samples),
        wait=median(sample.wait for sample in samples),
    )


def ratio(samples: Samples, of: Callable[[Sample], float], ours: str, theirs: str) -> float:
    """The median over the rounds of our figure divided by theirs."""
    return median(of(mine) / of(other) for mine, other in zip(samples[ours], samples[theirs], strict=True))
