"""An engine whose views a test writes, and an app of the real kind on top of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from router.api.body import BodyBudget
from router.api.services import Services
from router.api.tickets import TicketOffice
from router.config import Keys, ModelConfig, Settings
from router.core.types import DeviceView, ModelView, Status
from router.telemetry.metrics import Telemetry
from router.telemetry.status import StatusBus
from tests.fakes.engine import FakeEngine, FakeModel
from tests.fakes.serving import served
from tests.support.views import device_view, model_view

QWEN, LLAMA = "qwen", "org/llama:q4"


class Board(FakeEngine):
    """Shows what a test pins up, and does to it what it is told to do."""

    def __init__(self) -> None:
        super().__init__(**{QWEN: FakeModel(status=Status.OFF), LLAMA: FakeModel(status=Status.OFF)})
        self.pinned = {name: model_view(name) for name in (QWEN, LLAMA)}
        self.memory: tuple[DeviceView, ...] = (device_view(),)
        self.ports: dict[str, int] = {}
        self.tails: dict[str, str] = {}
        self.wait_error: Exception | None = None

    def pin(self, name: str, **changes: Any) -> ModelView:
        self.pinned[name] = replace(self.pinned[name], **changes)
        return self.pinned[name]

    def view(self, model: str) -> ModelView:
        return self.pinned[model]

    def devices(self) -> tuple[DeviceView, ...]:
        return self.memory

    def load(self, model: str) -> None:
        super().load(model)
        if self.view(model).status is not Status.READY:
            self.pin(model, status=Status.LOADING)

    async def wait_ready(self, model: str, *, timeout: float) -> None:
        if self.wait_error is not None:
            raise self.wait_error
        self.pin(model, status=Status.READY)

    async def eject(self, model: str, *, force: bool) -> None:
        await super().eject(model, force=force)
        self.pin(model, status=Status.OFF)

    def reset(self, model: str) -> None:
        super().reset(model)
        self.pin(model, status=Status.OFF, reason="", retry_at=None)

    def tail(self, model: str, lines: int = 20) -> str:
        return self.tails.get(model, "")

    def port(self, replica: int) -> int | None:
        return next((self.ports.get(name) for name, view in self.pinned.items() if view.replica == replica), None)

    def pid(self, replica: int) -> int | None:
        return self.port(replica)


def board_services(board: Board, folder: Path, *, api_key: str | None = None) -> Services:
    """Services on the board; `fast` is a further name of the first model."""
    file = folder / "model.gguf"
    file.touch()
    models = {
        QWEN: ModelConfig.model_validate({"model_path": str(file), "aliases": ["fast"]}),
        LLAMA: ModelConfig.model_validate({"model_path": str(file)}),
    }
    status = StatusBus()
    telemetry = Telemetry(models, version="0", status=status)
    telemetry.attach(board)
    return Services(
        settings=Settings.build(models=models, folder=folder, keys=Keys.of(api_key=api_key)),
        engine=board,
        telemetry=telemetry,
        status=status,
        tickets=TicketOffice(board.clock),
        budget=BodyBudget(1 << 30),
        server_info={"llama": "fake b1"},
    )


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app on this machine."""
    async with served(app) as address, httpx.AsyncClient(base_url=address.url) as client:
        yield client


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The app on a real socket; yields its URL."""
    async with served(app) as address:
        yield address.url


async def eventually(is_so: Callable[[], bool], *, within: float = 5.0) -> None:
    """Wait until `is_so()`; raises TimeoutError."""
    async with asyncio.timeout(within):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
