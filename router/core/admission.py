"""Whether a request may join a queue, and what it is told if not."""

from __future__ import annotations

from router.core.commands import Reject, RejectCode
from router.core.forecast import Outlook
from router.core.lifecycle import Health
from router.core.obstacle import shortage
from router.core.records import Model, State
from router.core.types import Ticket

# Bounds of what a forecast may say in `Retry-After`, in seconds.
_SOONEST, _LATEST = 1.0, 60.0
# By then another process may listen in our place.
RETRY_ELSEWHERE = 5.0
SHUTTING_DOWN = "The router is shutting down."
_AVAILABLE = Health.AVAILABLE  # looking up a member takes its time


def refusal(state: State, model: Model, ticket: Ticket, now: float, *, closing: bool) -> Reject | None:
    """Why the ticket may not join the queue; None when it may. A model whose back-off is over may be tried again."""
    is_shut = closing or model.retired
    if model.health is _AVAILABLE and not is_shut and len(model.queue) < state.policy.max_queue:
        return None

    def reject(code: RejectCode, message: str, retry_after: float | None = None) -> Reject:
        return Reject(ticket.id, name, code, message, retry_after)

    name = model.spec.name
    if is_shut:
        told = (SHUTTING_DOWN, RETRY_ELSEWHERE) if closing else (removed(name), None)
        return reject(RejectCode.SHUTTING_DOWN if closing else RejectCode.REMOVED, *told)
    if model.health is Health.FAILED:
        return reject(RejectCode.FAILED, f"Model '{name}' has failed and waits for a reset: {model.reason}")
    if not ticket.again and model.health is Health.BACKOFF and model.retry_at is not None and now < model.retry_at:
        message = f"Model '{name}' failed and will be tried again in a moment: {model.reason}"
        return reject(RejectCode.BACKING_OFF, message, model.retry_at - now)
    if not ticket.again and len(model.queue) >= state.policy.max_queue:
        message = f"The queue of model '{name}' is full ({state.policy.max_queue} waiting)."
        return reject(RejectCode.QUEUE_FULL, message, _bounded(Outlook(state, now).wait(model, 0)))
    return None


def removed(model: str) -> str:
    """What those are told who asked for a model before it left the configuration."""
    return f"The model '{model}' has been removed from the configuration."


def timed_out(state: State, model: Model, ticket: Ticket, now: float) -> Reject:
    """What a waiter is told at its deadline."""
    waited = ticket.waited + now - ticket.arrived
    message = f"No slot of model '{ticket.model}' became free within {waited:.0f} s ({model.status} now)."
    if lacks := shortage(state, model):
        message = f"{message} It waits for room: it {lacks}."
    retry_after = _bounded(Outlook(state, now).wait(model, model.queue.width))
    return Reject(ticket.id, ticket.model, RejectCode.TIMEOUT, message, retry_after)


def _bounded(seconds: float) -> float:
    return min(_LATEST, max(_SOONEST, seconds))
