from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from router.core.types import ModelSpec, ModelView, Policy, Priority, Status
from router.engine.engine import Engine
from router.engine.limits import Limits
from router.engine.ports import ConversationEvent, LoadPhase
from tests.fakes.launcher import FakeDevices, FakeLauncher
from tests.support.drive import cpu_model, gpu_model
from tests.support.waiting import until


@dataclass
class Recorder:
    """An observer that keeps what it is told."""

    statuses: list[tuple[str, Status]] = field(default_factory=list)
    loads: list[tuple[str, bool]] = field(default_factory=list)
    evictions: list[tuple[str, str]] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    recycles: list[tuple[str, int]] = field(default_factory=list)
    grants: list[tuple[str, Priority]] = field(default_factory=list)
    phases: list[tuple[str, set[LoadPhase]]] = field(default_factory=list)
    kept: list[tuple[str, ConversationEvent, int]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def model_changed(self, view: ModelView, previous: Status) -> None:
        self.statuses.append((view.name, view.status))
        self.news.set()

    def granted(self, model: str, priority: Priority, waited: float) -> None:
        self.grants.append((model, priority))

    def load_finished(self, model: str, seconds: float, ok: bool) -> None:
        self.loads.append((model, ok))

    def load_phases(self, model: str, phases: Mapping[LoadPhase, float]) -> None:
        self.phases.append((model, set(phases)))

    def conversations(self, model: str, event: ConversationEvent, count: int) -> None:
        self.kept.append((model, event, count))

    def evicted(self, model: str, for_model: str) -> None:
        self.evictions.append((model, for_model))

    def recycled(self, model: str, held: int) -> None:
        self.recycles.append((model, held))

    def restarted(self, model: str) -> None:
        self.restarts.append(model)


@dataclass
class Bench:
    """An engine with fakes around it."""

    engine: Engine
    launcher: FakeLauncher
    seen: Recorder

    async def until(self, met: Callable[[], bool]) -> None:
        await until(met)

    async def endless_request(self) -> asyncio.Task[None]:
        """A request on `a` that has its slot and keeps it until somebody ends it."""

        async def request() -> None:
            with await self.engine.lease("a", Priority.NORMAL):
                await asyncio.Event().wait()

        running = asyncio.create_task(request())
        await self.until(lambda: self.engine.view("a").busy == 1)
        return running


@pytest.fixture
def bench() -> Callable[..., object]:
    @asynccontextmanager
    async def make(
        *names: str,
        launcher: FakeLauncher | None = None,
        policy: Policy | None = None,
        sizes: Mapping[str, float] | None = None,
        monitor: FakeDevices | None = None,
        models: Sequence[ModelSpec] = (),
        **limits: float,
    ) -> AsyncIterator[Bench]:
        launcher = launcher or FakeLauncher()
        seen = Recorder()
        model = cpu_model if monitor is None else gpu_model
        engine = Engine(
            models=models or [model(name, (sizes or {}).get(name, 1)) for name in names or ("a",)],
            policy=policy or Policy(),
            limits=Limits(**{"health_interval": 3600.0, **limits}),  # type: ignore[arg-type]
            launcher=launcher,
            monitor=monitor or FakeDevices(),
            observer=seen,
        )
        await engine.start()
        try:
            yield Bench(engine, launcher, seen)
        finally:
            await engine.close()

    return make
