"""An answer that is asked for in another form than its client wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from router.wire.sink import ConnectionBroken, Sink


class Untold(ConnectionBroken):
    """That form does not tell this answer, nor will it the next time; the upstream is well.

    Attributes:
        whole: what the upstream had to say has been read to its end.
    """

    def __init__(self, message: str, *, whole: bool) -> None:
        super().__init__(message, untouched=False)
        self.whole = whole


class Detour(Protocol):
    """Puts an answer into its client's form on its way."""

    @property
    def body(self) -> bytes:
        """The request's body in place of the client's."""

    def sink(self, inner: Sink, on_progress: Callable[[], None]) -> Sink:
        """Takes the upstream's answer and gives `inner` the client's, or breaks it with `Untold`."""
