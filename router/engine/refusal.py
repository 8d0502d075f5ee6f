"""What a rejected ticket is told, as an error."""

from __future__ import annotations

from collections.abc import Mapping

from router.core.commands import Reject, RejectCode
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
    return _ERRORS[rejection.code](rejection.message, retry_after=rejection.retry_after)
