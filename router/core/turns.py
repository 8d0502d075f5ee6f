"""How much a model's waiters are worth, how long its line is, and how long it may serve it while others wait."""

from __future__ import annotations

from router.core.records import Model, State
from router.core.types import Priority

# What a waiting request of each class is worth when it is chosen whom to load next.
_WEIGHTS = {Priority.HIGH: 4.0, Priority.NORMAL: 1.0, Priority.LOW: 0.25}
_SHORTEST_SEC = 1e-3
# At least half of such a line is done in the load more that its model is given for it.
_LOADS_OF_A_SHORT_LINE = 2.0


def weight(model: Model) -> float:
    """What its waiters count together."""
    return sum(_WEIGHTS[priority] * count for priority, count in model.queue.by_priority().items())


def line_seconds(state: State, model: Model) -> float:
    """How long all that its slots can do takes it to serve those who wait."""
    return model.queue.width * state.service_seconds(model) / model.slots


def density(model: Model, load: float, line: float) -> float:
    """Weighted requests that wait, per second that loading the model and serving its line take."""
    return weight(model) / max(_SHORTEST_SEC, load + line)


def turn_length(state: State, model: Model, now: float) -> float:
    """Seconds after it became ready for which a model that has work need not yield to a claim that is due.

    Its residency. Where that is not set by hand, up to a load more for a line that is neither long nor of low
    priority: to come back for it takes longer.
    """
    residency, load = state.residency(model), state.load_seconds(model)
    key = model.queue.head_key()
    if state.policy.min_residency is not None or key is None:
        return residency
    if key > now + state.policy.priority_offsets[Priority.NORMAL]:
        return residency
    is_short = line_seconds(state, model) <= _LOADS_OF_A_SHORT_LINE * load
    return residency + load if is_short else residency
