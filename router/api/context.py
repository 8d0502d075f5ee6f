"""What is known of a request beside its scope."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
from starlette.types import Scope

from router.api.cycle import cycle_of
from router.api.needs import NOBODY, Caller
from router.proxy.dialect import Dialect

_KEY = "llama_router.context"
_ID_LENGTH = 32  # hexadecimal digits


class RequestContext(msgspec.Struct):
    """A struct, since it is made in a fraction of a dataclass's time.

    Attributes:
        dialect: in which errors are told; see `speak`.
        started: `time.perf_counter()` at its arrival.
        model: canonical name, once known.
        gone: its client went away before the answer was whole.
        caller: who asks, once that is known.
    """

    request_id: str
    dialect: Dialect
    started: float
    model: str = ""
    gone: bool = False
    caller: Caller = NOBODY


def attach(scope: Scope, context: RequestContext) -> None:
    """Make it the context of this scope, and its id a header of the response, whoever writes that.

    Nothing inside says this header: the proxy drops a child's.
    """
    scope[_KEY] = context
    cycle_of(scope).lines = f"x-request-id: {context.request_id}\r\n".encode("ascii")
    if context.dialect is Dialect.ANTHROPIC:
        _add_anthropics_id(scope, context)


def speak(scope: Scope, dialect: Dialect) -> None:
    """From now on in this dialect, as a relay below `/upstream` learns it from the child's path."""
    context = context_of(scope)
    if dialect is Dialect.ANTHROPIC is not context.dialect:
        _add_anthropics_id(scope, context)
    context.dialect = dialect


def _add_anthropics_id(scope: Scope, context: RequestContext) -> None:
    cycle_of(scope).lines += f"request-id: {context.request_id}\r\n".encode("ascii")


def context_of(scope: Scope) -> RequestContext:
    """The context that the front attached."""
    found = scope[_KEY]
    assert isinstance(found, RequestContext)  # noqa: S101 - only this module writes it
    return found


def _ids() -> Iterator[str]:
    """Many at a time, since each look at the system's randomness costs more than the rest of an id."""
    while True:
        digits = os.urandom(_ID_LENGTH // 2 * 256).hex()
        for start in range(0, len(digits), _ID_LENGTH):
            yield digits[start : start + _ID_LENGTH]


# A request id that nobody else has.
fresh_id = _ids().__next__
