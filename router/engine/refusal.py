"""Why somebody does not get what he asked of the engine, as an error."""

from __future__ import annotations

from collections.abc import Mapping

from router.core.commands import Reject, RejectCode
from router.core.types import ModelView, Status
from router.errors import (
    ModelBackingOff,
    ModelEjected,
    ModelFailed,
    ModelNotFound,
    ModelTooLarge,
    QueueFull,
    QueueTimeout,
    RouterError,
    ShuttingDown,
)

_ERRORS: Mapping[RejectCode, type[RouterError]] = {
    RejectCode.QUEUE_FULL: QueueFull,
    RejectCode.TIMEOUT: QueueTimeout,
    RejectCode.LOAD_FAILED: ModelFailed,
    RejectCode.BACKING_OFF: ModelBackingOff,
    RejectCode.FAILED: ModelFailed,
    RejectCode.TOO_LARGE: ModelTooLarge,
    RejectCode.EJECTED: ModelEjected,
    RejectCode.SHUTTING_DOWN: ShuttingDown,
    RejectCode.REMOVED: ModelNotFound,
}


def error_of(rejection: Reject) -> RouterError:
    """What a rejected ticket is told."""
    return _ERRORS[rejection.code](rejection.message, retry_after=rejection.retry_after)


def not_coming(view: ModelView) -> RouterError | None:
    """What he is told who waits for a model that is not going to be ready; None while it may be."""
    if view.status is Status.FAILED:
        return (ModelTooLarge if view.misfit else ModelFailed)(f"Model '{view.name}' {view.reason}")
    if view.status is Status.OFF:
        return ModelEjected(f"Model '{view.name}' {view.reason or 'was unloaded meanwhile'}.")
    return None
