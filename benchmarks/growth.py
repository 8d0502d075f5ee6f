"""Whether the router's memory grows with the work it has done."""

from __future__ import annotations

import uvloop

from benchmarks import load
from benchmarks.contenders import Contender
from benchmarks.rounds import STREAMS
from benchmarks.script import CHUNKS, Plan

# More than the router remembers of a model (10,000), so that this bounded memory is full before we look.
_ENOUGH_ANSWERS = 12_000


def memory_growth(relay: Contender, *, chunks: int, warm_up: int = _ENOUGH_ANSWERS) -> float:
    """Bytes by which the relay is larger after so many further chunks."""
    _answers(relay, Plan(stream=False, chunks=CHUNKS, pause=0), warm_up)
    _answers(relay, STREAMS.plan, max(1, chunks // CHUNKS // 10))
    before = relay.memory()
    _answers(relay, STREAMS.plan, chunks // CHUNKS)
    return float(relay.memory() - before)


def _answers(relay: Contender, plan: Plan, count: int) -> None:
    uvloop.run(load.run(relay.target(stream=plan.stream), plan, connections=STREAMS.connections, answers=count))
