"""What is known of a request beside its scope."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from router.proxy.dialect import Dialect

_KEY = "llama_router.context"


@dataclass(slots=True)
class RequestContext:
    """Attributes:
    dialect: in which errors are told; a relay below `/upstream` sets that of the child's path.
    started: `time.perf_counter()` at its arrival.
    model: canonical name, once known.
    status: as sent; 0 before.
    sent: bytes of the response's body.
    """

    request_id: str
    dialect: Dialect
    started: float
    model: str = ""
    status: int = 0
    sent: int = 0


def attach(scope: Scope, context: RequestContext) -> None:
    scope[_KEY] = context


def context_of(scope: Scope) -> RequestContext:
    """The context that the boundary attached."""
    found = scope[_KEY]
    assert isinstance(found, RequestContext)  # noqa: S101 - only this module writes it
    return found
