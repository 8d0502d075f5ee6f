"""What is told of models and their replicas as it happens: to the log in words, to the observer for the figures."""

from __future__ import annotations

import logging

from router.core.commands import Evicted, Recycled, Start
from router.core.types import ModelView, ReplicaId, Status
from router.engine.ports import ChildExit, ConversationEvent, Observer
from router.engine.supervisor import Supervisor

_log = logging.getLogger(__name__)


class Chronicle:
    """Tells what happens, and measures what has a length.

    Args:
        observer: told of everything but grants, of which each request has one; those the engine tells itself.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._statuses: dict[str, Status] = {}  # as last told; off where nothing has been
        self._load_started: dict[ReplicaId, float] = {}

    def changed(self, view: ModelView) -> None:
        """A model's outward view is another than before."""
        previous, self._statuses[view.name] = self._statuses.get(view.name, Status.OFF), view.status
        self._observer.model_changed(view, previous)

    def loading(self, command: Start, now: float) -> None:
        """A load begins."""
        self._load_started[command.replica] = now
        _log.info("loading %s (replica %d) on %s", command.model, command.replica, ", ".join(command.placement.bytes))

    def ready(self, supervisor: Supervisor, slots: int, now: float) -> None:
        """A load has ended well."""
        seconds = now - self._load_started.pop(supervisor.replica, now)
        _log.info("%s is ready after %.2f s: %d slot(s)", supervisor.model, seconds, slots)
        self._observer.load_finished(supervisor.model, seconds, ok=True)
        self._observer.load_phases(supervisor.model, supervisor.phases)

    def ended(
        self, supervisor: Supervisor, ended: ChildExit, *, before: ModelView, after: ModelView, now: float
    ) -> None:
        """A child has ended, and the scheduler, with these views `before` and `after` it, has heard of it."""
        status = next((one.status for one in before.replicas if one.id == supervisor.replica), Status.OFF)
        expected = status in (Status.STOPPING, Status.DRAINING)
        started = self._load_started.pop(supervisor.replica, None)
        # One that is tried again with more memory has not failed yet; beside others there is no second try.
        if started is not None and not expected and (after.status is Status.FAILED or len(before.replicas) > 1):
            self._observer.load_finished(supervisor.model, now - started, ok=False)
        if after.restarts > before.restarts:
            self._observer.restarted(supervisor.model)
        _log.log(logging.INFO if expected else logging.ERROR, "%s ended: %s", supervisor.model, ended.reason)

    def evicted(self, command: Evicted) -> None:
        """A model gives way to another one."""
        _log.info("%s makes room for %s", command.model, command.for_model)
        self._observer.evicted(command.model, command.for_model)

    def recycled(self, command: Recycled) -> None:
        """A model's replica is started anew, since it holds so much."""
        _log.warning("%s is idle and holds %d MiB of RAM, more than max_rss_mb: it is started anew", command.model,
                     command.held // 1024**2)  # fmt: skip
        self._observer.recycled(command.model, command.held)

    def conversations(self, supervisor: Supervisor, event: ConversationEvent, count: int, seconds: float) -> None:
        """So many were saved before an unload, or restored after a load."""
        if count:
            _log.info("%s: %d conversation(s) %s in %.0f ms", supervisor.model, count, event, seconds * 1000)
            self._observer.conversations(supervisor.model, event, count)
