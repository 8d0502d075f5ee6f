"""A whole router without its engine: the app on a socket, a fake engine behind it, a fake upstream behind that."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from router.api.app import create_app
from router.api.body import MIB, BodyBudget
from router.api.services import Services
from router.api.tickets import TicketOffice
from router.config import ApiConfig, Keys, ModelConfig, Settings, SystemConfig
from router.core.types import Status
from router.telemetry.access_log import AccessLog
from router.telemetry.metrics import Telemetry
from router.telemetry.status import StatusBus
from tests.fakes.engine import FakeEngine, FakeModel
from tests.fakes.serving import Address, served
from tests.fakes.upstream import FakeUpstream

MODELS: Mapping[str, tuple[str, ...]] = {"chat": ("gpt-4o",), "org/m:q4": (), "org": (), "ünï 模型": (), "cold": ()}


@dataclass
class Site:
    address: Address
    client: httpx.AsyncClient
    engine: FakeEngine
    upstream: FakeUpstream
    services: Services
    log: AccessLog
    written: io.StringIO

    def access_lines(self) -> list[str]:
        """The access log so far, without what stands before each line."""
        self.log.flush()
        return [line.partition("router.access  ")[2] for line in self.written.getvalue().splitlines()]

    def metrics(self) -> str:
        """The page of `/metrics`."""
        return self.services.telemetry.render().decode()

    async def chat(self, text: bytes = b'{"model":"chat"}', **headers: str) -> httpx.Response:
        found = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/v1/chat/completions", content=text, headers=found)


def settings_for(
    folder: Path,
    *,
    api: ApiConfig | None = None,
    api_key: str | None = None,
    admin_key: str | None = None,
    metrics_token: str | None = None,
    flags: tuple[str, ...] = (),
) -> Settings:
    """Keys are not checked, and those of `api` are used where none is given; `flags` are all models'."""
    models = {}
    for number, (name, aliases) in enumerate(MODELS.items()):
        path = folder / f"{number}.gguf"
        path.write_bytes(b"GGUF")
        models[name] = ModelConfig(model_path=path, aliases=aliases, flags=flags, env={})
    given = api_key or admin_key or metrics_token
    keys = Keys.of(api_key=api_key, admin=admin_key, metrics=metrics_token) if given else None
    system = SystemConfig(default_parallel=4)
    return Settings.build(models=models, system=system, api=api, folder=folder, keys=keys)


def services_for(settings: Settings, engine: FakeEngine, *, budget: BodyBudget | None = None) -> Services:
    status = StatusBus()
    telemetry = Telemetry(settings.models, version="test", status=status, clock=engine.clock,
                          keys=[key.name for key in settings.keys.everyone])  # fmt: skip
    telemetry.attach(engine)
    return Services(
        settings=settings,
        engine=engine,
        telemetry=telemetry,
        status=status,
        tickets=TicketOffice(engine.clock),
        budget=budget or BodyBudget(settings.api.max_buffered_mb * MIB),
        server_info={},
    )


@asynccontextmanager
async def site(
    folder: Path,
    *,
    budget: BodyBudget | None = None,
    api: ApiConfig | None = None,
    flags: tuple[str, ...] = (),
    **keys: str,
) -> AsyncIterator[Site]:
    """All models of MODELS on one fake upstream; `cold` is off."""
    settings = settings_for(folder, api=api, flags=flags, **keys)
    fake = FakeUpstream()
    async with fake.serving() as upstream:
        engine = FakeEngine(**{name: FakeModel(upstream) for name in MODELS})
        engine.models["cold"].status = Status.OFF
        services = services_for(settings, engine, budget=budget)
        written = io.StringIO()
        with AccessLog(written, enabled=True) as log:
            async with (
                served(create_app(services, log)) as address,
                httpx.AsyncClient(base_url=address.url, timeout=10) as client,
            ):
                yield Site(address, client, engine, fake, services, log, written)
