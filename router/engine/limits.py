"""The deadlines the engine keeps, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from router.core.liveness import Patience
from router.engine.ports import KEEP_TIMEOUT_SEC


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the engine waits for what.

    Attributes:
        queue_timeout: longest wait of a request before its grant, load included.
        request_timeout: longest a granted request may go without progress.
        generation_timeout: longest a lease may last.
        load_timeout: longest load; then the child is killed.
        health_interval: between two liveness checks of a ready replica.
        health_failures: liveness checks in a row that must fail before a replica is given up.
        process_interval: between two looks at whether a child's process runs.
        stop_grace: between TERM and KILL.
        reclaim_timeout: longest wait for a dead replica's memory to be seen free.
        observe_interval: between two readings of the devices.
        keep_timeout: longest to save or to restore one conversation; 0 where none is kept.
    """

    queue_timeout: float = 240.0
    request_timeout: float = 120.0
    generation_timeout: float = 3600.0
    load_timeout: float = 600.0
    health_interval: float = 30.0
    health_failures: int = 3
    process_interval: float = 2.0
    stop_grace: float = 5.0
    reclaim_timeout: float = 5.0
    observe_interval: float = 2.0
    keep_timeout: float = KEEP_TIMEOUT_SEC

    def patience(self) -> Patience:
        """What the scheduler may expect of the engine at worst."""
        return Patience(
            load=self.load_timeout,
            lease=self.generation_timeout + self.request_timeout,
            stop=self.stop_grace,
            keep=self.keep_timeout,
            reclaim=self.stop_grace + self.reclaim_timeout,  # one that was given up is ended only then
        )
