"""A granted slot: what the proxy gets to know of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self

from router.core.types import LeaseId, ReplicaId
from router.engine.ports import Upstream
from router.errors import RouterError

# How long a request may be on its way before `/slots` shows it: its child reads, renders and tokenizes it first, which
# took llama-server 0.02 to 0.65 s for a MB of text, 1.2 s for one of blanks (vocabularies of Llama 2, 3 and Qwen 2).
_DISPATCH_SEC = 0.25
_DISPATCH_SEC_PER_BYTE = 2e-6


class Lease:
    """The right to have one request running on one replica.

    Use it as a context manager in the task that relays. Call `sent()` with each request, `answered()` when an answer
    begins, `progress()` at each piece of content and `finish()` once the upstream's answer has been read to its end, or
    when nothing has been asked. Leaving the block without `finish()` abandons the lease: its slot counts as busy until
    the child shows it idle.

    The engine may end a lease early (stall, time limit, forced eject): the owning task is cancelled, and the block
    raises the engine's error in place of the cancellation.

    Attributes:
        width: slots that its request may keep busy; it may need fewer of them towards its end.
        shown_by: monotonic time from which on the child shows its slot as busy, if it still is.
    """

    __slots__ = ("_abort_error", "_finished", "_release", "_task", "granted_at", "id", "last_progress", "model",
                 "replica", "shown_by", "upstream", "width")  # fmt: skip

    def __init__(
        self,
        *,
        lease_id: LeaseId,
        model: str,
        replica: ReplicaId,
        upstream: Upstream,
        granted_at: float,
        release: Callable[[Lease, bool], None],
        width: int = 1,
    ) -> None:
        self.id = lease_id
        self.model = model
        self.replica = replica
        self.upstream = upstream
        self.granted_at = granted_at
        self.last_progress = granted_at
        self.shown_by = granted_at + _DISPATCH_SEC
        self.width = width
        self._release = release
        self._finished = False
        self._task: asyncio.Task[object] | None = None
        self._abort_error: RouterError | None = None

    def sent(self, size: int) -> None:
        """A request with a body of so many bytes is on its way."""
        self.shown_by = monotonic() + _DISPATCH_SEC + size * _DISPATCH_SEC_PER_BYTE

    def answered(self) -> None:
        """An answer has begun, so the request has reached its slot."""
        self.shown_by = 0.0

    def progress(self) -> None:
        """A piece of content arrived."""
        self.last_progress = monotonic()
        self.shown_by = 0.0

    def finish(self) -> None:
        """The upstream's answer has been read to its end, so its slot is idle again; or it was never asked."""
        self._finished = True

    def abort(self, error: RouterError) -> None:
        """End the lease from outside; the first error stays."""
        if self._abort_error is not None:
            return
        self._abort_error = error
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if self._abort_error is not None:
            self._release(self, True)
            raise self._abort_error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._release(self, self._finished)
        # Only our own cancellation becomes an error; one that came from elsewhere goes on (as asyncio.timeout does).
        reason = self._abort_error if kind is asyncio.CancelledError else None
        if reason is not None and task is not None and task.uncancel() <= 0:
            raise reason from error
