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


class Lease:
    """The right to have one request running on one replica.

    Use it as a context manager in the task that relays. Call `progress()` at each piece of content and
    `finish()` once the upstream's answer has been read to its end. Leaving the block without `finish()` abandons the
    lease: its slot counts as busy until the child shows it idle.

    The engine may end a lease early (stall, time limit, forced eject): the owning task is cancelled, and the block
    raises the engine's error in place of the cancellation.
    """

    __slots__ = ("_abort_error", "_finished", "_release", "_task", "granted_at", "id", "last_progress", "model",
                 "replica", "upstream")  # fmt: skip

    def __init__(
        self,
        *,
        lease_id: LeaseId,
        model: str,
        replica: ReplicaId,
        upstream: Upstream,
        granted_at: float,
        release: Callable[[Lease, bool], None],
    ) -> None:
        self.id = lease_id
        self.model = model
        self.replica = replica
        self.upstream = upstream
        self.granted_at = granted_at
        self.last_progress = granted_at
        self._release = release
        self._finished = False
        self._task: asyncio.Task[object] | None = None
        self._abort_error: RouterError | None = None

    def progress(self) -> None:
        """A piece of content arrived."""
        self.last_progress = monotonic()

    def finish(self) -> None:
        """The upstream's answer has been read to its end, so its slot is idle again."""
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
