"""The error taxonomy: what can go wrong, and how a client is told.

Every error that may reach a client is a `RouterError`. The class carries the HTTP status, OpenAI's `type` and `code`,
and the advice to retry; the instance carries the sentence for a person. Layers below the API raise these and never
build a response; the API renders them in the dialect of the endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

# Clients honour a Retry-After below a minute; some give up at a longer one.
MIN_RETRY_AFTER_SEC = 1
MAX_RETRY_AFTER_SEC = 59


class RouterError(Exception):
    """Base of everything the router says to a client.

    Args:
        message: one or two sentences for a person: what is wrong, where, what to do.
        param: the request field or header the error is about (OpenAI's `param`).
        retry_after: seconds after which another try makes sense; sent clamped to 1..59 as an integer.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"
    # True/False is sent as `x-should-retry`, which OpenAI's SDKs obey; None leaves it to the client.
    should_retry: ClassVar[bool | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        """The response headers that belong to this error."""
        found: dict[str, str] = {}
        if self.retry_after is not None:
            seconds = min(max(round(self.retry_after), MIN_RETRY_AFTER_SEC), MAX_RETRY_AFTER_SEC)
            found["retry-after"] = str(seconds)
        if self.should_retry is not None:
            found["x-should-retry"] = "true" if self.should_retry else "false"
        return found


class InvalidRequest(RouterError):
    """The request cannot be understood or cannot be served as it is."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class UnsupportedByModel(InvalidRequest):
    """The model exists but cannot do what is asked, e.g. chat with an embedding model."""

    code, should_retry = "unsupported_by_model", False


class RemoteMediaRefused(InvalidRequest):
    """A request names a picture, a sound or a film by its address; `param` tells where."""

    code, should_retry = "remote_media_refused", False


class AuthenticationFailed(RouterError):
    """No key, or a wrong one."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(RouterError):
    """The peer may not come in at all."""

    status, type, code = 403, "invalid_request_error", "forbidden"


class ModelNotFound(RouterError):
    """No such model is configured."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class UnknownUrl(RouterError):
    """No such path."""

    status, type, code = 404, "invalid_request_error", "unknown_url"


class MethodNotAllowed(RouterError):
    """The path exists, the method does not; `allow` names those that do."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, message: str, *, allow: Sequence[str]) -> None:
        super().__init__(message)
        self.allow = tuple(sorted(allow))

    def headers(self) -> dict[str, str]:
        return super().headers() | {"allow": ", ".join(self.allow)}


class BodyTooLarge(RouterError):
    """One request is larger than `api.max_body_mb`."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedEncoding(RouterError):
    """A compressed body."""

    status, type, code = 415, "invalid_request_error", "unsupported_content_encoding"


class ConfigRefused(RouterError):
    """The configuration that was to be read anew is not usable; the old one holds. The message names each problem."""

    status, type, code = 400, "invalid_request_error", "config_refused"


class ConfigUnread(RouterError):
    """The configuration could not be read anew in time, since a disk hangs; the old one holds."""

    status, type, code = 503, "server_error", "config_unread"


class QueueFull(RouterError):
    """`system.max_queue_size_per_model` waiters are there already."""

    status, type, code = 429, "rate_limit_error", "queue_full"


class Overloaded(RouterError):
    """The router is at a limit: `api.max_buffered_mb` over all waiting requests, or its file descriptors."""

    status, type, code = 503, "server_error", "overloaded"


class QueueTimeout(RouterError):
    """No slot became free within `system.queue_timeout_sec`; a load that is under way goes on."""

    status, type, code = 503, "server_error", "queue_timeout"


class ModelBackingOff(RouterError):
    """The model failed a moment ago and will be tried again after a pause."""

    status, type, code = 503, "server_error", "model_backing_off"


class ModelFailed(RouterError):
    """The model cannot be loaded; the message holds the child's own reason."""

    status, type, code, should_retry = 503, "server_error", "model_failed", False


class ModelNotLoaded(RouterError):
    """The model is not ready, and what was asked of it does not load one."""

    status, type, code, should_retry = 503, "server_error", "model_not_loaded", False


class ModelTooLarge(RouterError):
    """The model can never fit; the message holds the arithmetic."""

    status, type, code, should_retry = 503, "server_error", "model_too_large", False


class ModelEjected(RouterError):
    """The model was unloaded by an operator while the request waited or ran."""

    status, type, code = 503, "server_error", "model_ejected"


class ShuttingDown(RouterError):
    """The router takes no new work."""

    status, type, code = 503, "server_error", "shutting_down"


class UpstreamFailed(RouterError):
    """The child broke off, or answered with something that is not HTTP."""

    status, type, code = 502, "server_error", "upstream_failed"


class UpstreamKeptFailing(UpstreamFailed):
    """It broke off before it had answered each time the request was sent, which may well be what the request does."""

    should_retry = False


class UpstreamStalled(RouterError):
    """No progress for `system.request_timeout_sec`."""

    status, type, code = 504, "server_error", "upstream_stalled"


class GenerationTimeout(RouterError):
    """The lease reached `system.generation_timeout_sec`."""

    status, type, code, should_retry = 504, "server_error", "generation_timeout", False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.

    Attributes:
        path: the key path, e.g. `models.qwen.flags[2]`; empty when the whole document is meant.
        message: what is wrong and what was expected.
        hint: the nearest known key or the next step; empty when there is none.
    """

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(Exception):
    """The configuration is refused; holds every problem, not the first."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{source}: {count} problem{'s' if count != 1 else ''}\n{lines}")


class DemoError(Exception):
    """The demo models could not be made; the message is for people."""
