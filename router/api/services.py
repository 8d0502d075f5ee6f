"""What the handlers work with: one value, made by the composition root and kept in `app.state.services`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from router.api.body import MIB, BodyBudget
from router.api.tickets import TicketOffice
from router.config import Reloaded, Settings
from router.core.affinity import Marks
from router.core.types import DeviceView, LinePlace, ModelView, Priority, ReplicaId
from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.telemetry.metrics import Telemetry
from router.telemetry.status import StatusBus


class Turn(Protocol):
    """What the API asks of a request's standing with a queue; see `engine.turn`."""

    async def lease(self) -> Lease:
        """Wait for a slot; again after the last one's replica has died. Raises the RouterError that ended the wait."""

    def renew(self) -> None:
        """Stand in the queue for the next piece, while the slot of the last one is still held."""

    def leave(self) -> None:
        """Take back what `renew` asked for, if `lease` has not waited for it."""

    def place(self) -> LinePlace | None:
        """Where it stands in the queue; None when it does not wait."""


class Engine(Protocol):
    """What the API asks of the engine. Every `model` is a canonical name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names in the order of the configuration."""

    @property
    def accepting(self) -> bool:
        """False while the router starts up or shuts down."""

    def turn(
        self, model: str, priority: Priority, *, width: int = 1, marks: Marks = (), timeout: float | None = None
    ) -> Turn:
        """A request's standing with the queue of a model, which is loaded if need be; it takes `width` slots.

        Of several replicas the one is preferred that knows its `marks`.
        """

    async def wait_gone(self, model: str, replica: ReplicaId, *, timeout: float) -> bool:
        """Wait until a replica is known to serve no more; False when it still does after so many seconds."""

    def upstream(self, model: str) -> Upstream | None:
        """A ready replica, for calls that take no slot; None when there is none."""

    def load(self, model: str) -> None:
        """Start loading (idempotent). Raises ModelFailed, ShuttingDown."""

    async def wait_ready(self, model: str, *, timeout: float) -> None:
        """Wait until it is ready. Raises ModelFailed, QueueTimeout."""

    async def eject(self, model: str, *, force: bool) -> None:
        """Drain, unload, and return when it is off (idempotent); `force` ends what is running."""

    def reset(self, model: str) -> None:
        """Forget its failures."""

    def view(self, model: str) -> ModelView: ...

    def views(self) -> tuple[ModelView, ...]: ...

    def devices(self) -> tuple[DeviceView, ...]: ...

    def troubles(self) -> tuple[str, ...]:
        """Why the scheduler does not keep its word, each in half a sentence; empty when it does."""

    def tail(self, model: str, lines: int = 20) -> str:
        """The last lines of its child's log."""

    def port(self, replica: ReplicaId) -> int | None: ...

    def pid(self, replica: ReplicaId) -> int | None: ...

    def clock(self) -> float:
        """The monotonic clock of the views."""


class Reload(Protocol):
    """Reads the configuration anew."""

    async def __call__(self) -> Reloaded:
        """What is the same is left alone. Raises ConfigRefused, ConfigUnread, ShuttingDown, having changed nothing."""


@dataclass(slots=True)
class Services:
    """Attributes:
    settings: what holds now, as one frozen value; changed by `apply` alone.
    budget: bytes of request bodies held at once, see `api.max_buffered_mb`.
    server_info: what `/health` tells about the router and its llama.cpp.
    reload: None where there is nothing to read anew.
    """

    settings: Settings
    engine: Engine
    telemetry: Telemetry
    status: StatusBus
    tickets: TicketOffice
    budget: BodyBudget
    server_info: Mapping[str, str]
    reload: Reload | None = None
    _followers: list[Callable[[Settings], None]] = field(default_factory=list)

    def follow(self, adopt: Callable[[Settings], None]) -> None:
        """Call `adopt` with the settings now, and again whenever others hold: for what is made from them beforehand."""
        self._followers.append(adopt)
        adopt(self.settings)

    def apply(self, settings: Settings) -> None:
        """These hold from now on, for all in one step: nothing else runs in between."""
        if settings.keys != self.settings.keys:
            self.tickets.void()
        self.settings = settings
        self.budget.limit = settings.api.max_buffered_mb * MIB
        for adopt in self._followers:
            adopt(settings)
