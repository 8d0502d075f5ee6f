"""A fake engine for tests of the API: real leases on whatever upstreams a test puts up, and a queue held by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count

from router.core.affinity import Marks
from router.core.types import DeviceView, LinePlace, ModelView, Obstacle, Priority, Status
from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.errors import RouterError
from tests.support.views import model_view


@dataclass
class FakeModel:
    """One model of the fake.

    Attributes:
        upstream: where its leases go; None = cold.
        refusal: raised in place of a lease.
        open: cleared by a test that wants requests to wait.
    """

    upstream: Upstream | None = None
    refusal: RouterError | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    status: Status = Status.READY

    def __post_init__(self) -> None:
        self.open.set()


class FakeEngine:
    """Implements the API's `Engine`.

    Attributes:
        granted: model and priority of each lease, in order.
        widths: slots that each request asked for, in order.
        marks: of the text of each request, in order.
        leases: those that are running.
        finished: for each ended lease whether its answer was read to the end.
        queue: requests that wait for a lease, in order of arrival.
        verdicts: replicas that were waited for to be gone.
        woes: what its scheduler suffers from.
    """

    def __init__(self, **models: FakeModel) -> None:
        self.models = models
        self.accepting = True
        self.granted: list[tuple[str, Priority]] = []
        self.widths: list[int] = []
        self.marks: list[Marks] = []
        self.leases: list[Lease] = []
        self.finished: list[bool] = []
        self.queue: list[FakeTurn] = []
        self.verdicts: list[int] = []
        self.woes: tuple[str, ...] = ()
        self.loaded: list[str] = []
        self.ejected: list[tuple[str, bool]] = []
        self.resets: list[str] = []
        self._ids = count(1)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.models)

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def turn(
        self, model: str, priority: Priority, *, width: int = 1, marks: Marks = (), timeout: float | None = None
    ) -> FakeTurn:
        self.widths.append(width)
        self.marks.append(marks)
        return FakeTurn(self, model, priority)

    async def wait_gone(self, model: str, replica: int, *, timeout: float) -> bool:
        self.verdicts.append(replica)
        return True

    def grant(self, model: str, priority: Priority) -> Lease:
        fake = self.models[model]
        if fake.refusal is not None:
            raise fake.refusal
        assert fake.upstream is not None, "the test put up no upstream"
        self.granted.append((model, priority))
        lease = Lease(
            lease_id=next(self._ids),
            model=model,
            replica=1,
            upstream=fake.upstream,
            granted_at=self.clock(),
            release=self._released,
        )
        self.leases.append(lease)
        return lease

    def _released(self, lease: Lease, finished: bool) -> None:
        self.leases.remove(lease)
        self.finished.append(finished)

    def upstream(self, model: str) -> Upstream | None:
        fake = self.models[model]
        return fake.upstream if fake.status is Status.READY else None

    def load(self, model: str) -> None:
        self.loaded.append(model)

    async def wait_ready(self, model: str, *, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self.models[model].open.wait()

    async def eject(self, model: str, *, force: bool) -> None:
        self.ejected.append((model, force))
        self.models[model].status = Status.OFF

    def reset(self, model: str) -> None:
        self.resets.append(model)

    def view(self, model: str) -> ModelView:
        status = self.models[model].status
        replica = 1 if status is Status.READY else None
        return model_view(model, status=status, replica=replica, slots=1, busy=len(self.leases))

    def views(self) -> tuple[ModelView, ...]:
        return tuple(self.view(model) for model in self.models)

    def devices(self) -> tuple[DeviceView, ...]:
        return ()

    def troubles(self) -> tuple[str, ...]:
        return self.woes

    def tail(self, model: str, lines: int = 20) -> str:
        return ""

    def port(self, replica: int) -> int | None:
        return None

    def pid(self, replica: int) -> int | None:
        return None


class FakeTurn:
    """One request's standing with the fake's queue."""

    def __init__(self, engine: FakeEngine, model: str, priority: Priority) -> None:
        self._engine = engine
        self._model = model
        self._priority = priority

    async def lease(self) -> Lease:
        if self not in self._engine.queue:
            self._engine.queue.append(self)
        try:
            await self._engine.models[self._model].open.wait()
        finally:
            self._engine.queue.remove(self)
        return self._engine.grant(self._model, self._priority)

    def renew(self) -> None:
        self._engine.queue.append(self)

    def leave(self) -> None:
        if self in self._engine.queue:
            self._engine.queue.remove(self)

    def place(self) -> LinePlace | None:
        queue = self._engine.queue
        return LinePlace(queue.index(self), 2.5, Obstacle.SLOT) if self in queue else None
