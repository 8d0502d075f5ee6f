"""The composition root: the only file that sees every layer. Owns the order of start-up and of shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from router import __version__
from router.api.app import create_app
from router.api.body import BodyBudget
from router.api.server import Server, hush_uvicorn, listen
from router.api.services import Services
from router.api.tickets import TicketOffice
from router.backends.capabilities import build_stamp
from router.backends.llama_server import LlamaServerLauncher
from router.config import Settings, load_settings
from router.core.types import Device, ModelSpec, Policy, Priority
from router.demo import prepare_demo, wants_demo, welcome
from router.devices.monitor import SystemDevices
from router.engine.engine import Engine
from router.engine.limits import Limits
from router.engine.ports import LaunchError
from router.errors import ConfigError, Problem
from router.inventory import CACHE_RAM_MB, MIB, Entry, inventory, kept_in_vain, working_dir
from router.learned import LearnedMemory
from router.report import models_table
from router.telemetry.access_log import AccessLog
from router.telemetry.logs import configure_logging, redact
from router.telemetry.metrics import Telemetry
from router.telemetry.status import StatusBus

_log = logging.getLogger(__name__)

# Open streams may take this long to finish once the router has been told to stop.
DRAIN_SEC = 30.0
_COLLECTOR_THRESHOLDS = (50_000, 20, 100)


@dataclass(frozen=True, slots=True)
class Router:
    """A started router, without its socket."""

    settings: Settings
    engine: Engine
    status: StatusBus
    app: ASGIApp

    def begin_shutdown(self) -> None:
        """Turn waiters away and end the status streams; what is being generated runs on."""
        self.status.close()
        self.engine.begin_close()


def serve(*, config: Path | None, host: str | None, port: int | None) -> int:
    """Run until told to stop; returns the exit code. Raises ConfigError, DemoError, OSError."""
    configure_logging()
    hush_uvicorn()
    config, demo = _config_or_demo(config)
    settings = load_settings(config_path=config, environ=os.environ, host=host, port=port)
    _check_state_dir(settings)
    with listen(settings.api.host, settings.api.port) as sock:
        _run(_serve(settings, sock, demo))
    return 0


async def describe_models(*, config: Path | None, host: str | None, port: int | None) -> str:
    """What `models` prints. Raises ConfigError, DemoError."""
    config, demo = _config_or_demo(config)
    settings = load_settings(config_path=config, environ=os.environ, host=host, port=port)
    monitor = await SystemDevices.open(settings.system.gpu_devices, _budget(settings))
    try:
        gpu_available = len(monitor.devices) > 1
        entries = await asyncio.to_thread(inventory, settings, gpu_available=gpu_available)
        info: dict[str, str] = {}
        await _find_llama(_launcher(settings, entries, gpu_available=gpu_available), info)
        table = await asyncio.to_thread(models_table, entries, monitor.devices, await monitor.read())
    finally:
        await monitor.close()
    origin = "The models of the demo, since there is no config.json here.\n" if demo else ""
    return f"{origin}llama.cpp: {info['llama_server']}\n{table}"


def _config_or_demo(config: Path | None) -> tuple[Path | None, Path | None]:
    """The configuration file to read, and the demo's folder if it is the demo's."""
    if not wants_demo(config, os.environ, Path.cwd()):
        return config, None
    folder = Path.cwd() / ".llama-router" / "demo"
    return prepare_demo(folder), folder


def _check_state_dir(settings: Settings) -> None:
    """Find out now, and not at the first load, that nothing can be kept."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.state_dir):
            pass
    except OSError as error:
        problem = Problem("system.state_dir", f"cannot be written: {settings.state_dir}: {error.strerror}")
        raise ConfigError(str(settings.source or "settings"), [problem]) from error


@asynccontextmanager
async def running(settings: Settings, access_log: AccessLog) -> AsyncIterator[Router]:
    """Build everything, start it, and take it down again in reverse order, whatever happens."""
    for secret in (settings.api_key, settings.metrics_token):
        if secret is not None:
            redact(secret.get_secret_value())
    monitor = await SystemDevices.open(settings.system.gpu_devices, _budget(settings))
    try:
        gpu_available = len(monitor.devices) > 1
        for note in (*settings.notes, *monitor.notes, monitor.gpu_reason):
            if note:
                _log.info("%s", note)
        entries = await asyncio.to_thread(inventory, settings, gpu_available=gpu_available)
        launcher = _launcher(settings, entries, gpu_available=gpu_available)
        info: dict[str, str] = {"llama_server": "looking for it"}
        build = build_stamp(settings.system.llama_server_path)
        learned = LearnedMemory(settings.state_dir, entries, monitor.devices, build)
        specs = [learned.apply(entry.model_spec(settings)) for entry in entries]
        for warning in _doubts(settings, entries, specs, monitor.devices):
            _log.warning("%s", warning)
        router = _assemble(settings, specs, launcher, monitor, info, access_log=access_log)
        background = [
            asyncio.create_task(_find_llama(launcher, info), name="find llama.cpp"),
            asyncio.create_task(_keep_learned(router.status, learned), name="keep what is learned"),
        ]
        try:
            await router.engine.start()
            for name in settings.preload:
                router.engine.load(name, evict=False)
            yield router
        finally:
            router.status.close()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await router.engine.close()
            news = [learned.note(view) for view in router.engine.views()]
            if any(news):
                learned.save()
    finally:
        await monitor.close()


def _doubts(
    settings: Settings, entries: Iterable[Entry], specs: Sequence[ModelSpec], devices: Sequence[Device]
) -> Iterator[str]:
    """What of the models will not be as one might think."""
    for entry in entries:
        if entry.unreadable:
            yield f"the memory of {entry.name} is guessed from its size: {entry.unreadable}"
    yield from kept_in_vain(specs, devices, places=settings.system.max_concurrent_models)


def _assemble(
    settings: Settings,
    models: Sequence[ModelSpec],
    launcher: LlamaServerLauncher,
    monitor: SystemDevices,
    info: Mapping[str, str],
    *,
    access_log: AccessLog,
) -> Router:
    status = StatusBus()
    telemetry = Telemetry([model.name for model in models], version=__version__, status=status)
    engine = Engine(
        models=models,
        policy=_policy(settings),
        limits=_limits(settings),
        launcher=launcher,
        monitor=monitor,
        observer=telemetry,
    )
    telemetry.attach(engine)
    services = Services(
        settings=settings,
        engine=engine,
        telemetry=telemetry,
        status=status,
        tickets=TicketOffice(time.monotonic),
        budget=BodyBudget(settings.api.max_buffered_mb * MIB),
        server_info=info,
    )
    return Router(settings, engine, status, create_app(services, access_log))


def _launcher(settings: Settings, entries: tuple[Entry, ...], *, gpu_available: bool) -> LlamaServerLauncher:
    return LlamaServerLauncher(
        {entry.name: entry.launch_spec() for entry in entries},
        state_dir=settings.state_dir,
        base_port=settings.system.base_port,
        binary=settings.system.llama_server_path,
        gpus_present=gpu_available,
        cache_ram_mb=CACHE_RAM_MB,
        working_dir=working_dir(settings),
        keep_conversations_mb=settings.system.keep_conversations_mb if settings.system.keep_conversations else 0,
    )


async def _find_llama(launcher: LlamaServerLauncher, info: dict[str, str]) -> None:
    """Ask llama.cpp what it can while the router already listens; a slow binary must not delay that."""
    try:
        info["llama_server"] = str(await launcher.prepare())
    except LaunchError as error:
        info["llama_server"] = f"unavailable: {error}"
        _log.error("%s", error)
    else:
        _log.info("llama.cpp: %s", info["llama_server"])


async def _keep_learned(status: StatusBus, learned: LearnedMemory) -> None:
    with status.subscribe() as changes:
        async for view in changes:
            if view is not None and learned.note(view):
                await asyncio.to_thread(learned.save)


def _budget(settings: Settings) -> int | None:
    megabytes = settings.system.memory_budget_mb
    return None if megabytes is None else megabytes * MIB


def _policy(settings: Settings) -> Policy:
    system = settings.system
    offsets = system.priority_offsets_sec
    return Policy(
        max_models=system.max_concurrent_models,
        max_queue=system.max_queue_size_per_model,
        priority_offsets={
            Priority.HIGH: offsets.high,
            Priority.NORMAL: offsets.normal,
            Priority.LOW: offsets.low,
        },
        min_residency=system.min_residency_sec,
        restart_grace=system.restart_grace_sec,
    )


def _limits(settings: Settings) -> Limits:
    system = settings.system
    return Limits(
        queue_timeout=system.queue_timeout_sec,
        request_timeout=system.request_timeout_sec,
        generation_timeout=system.generation_timeout_sec,
        load_timeout=system.load_timeout_sec,
        health_interval=system.health_interval_sec,
    )


def _calm_collector() -> None:
    """Leave what has been made so far out of every later collection, and collect rarely.

    Full passes over the heap were the longest pauses of the loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


async def _serve(settings: Settings, sock: socket.socket, demo: Path | None) -> None:
    with AccessLog() as access_log:
        async with running(settings, access_log) as router:
            _calm_collector()
            server = Server(
                router.app,
                on_listening=lambda: _announce(settings, sock, demo),
                on_exit=router.begin_shutdown,
                on_deadline=router.engine.abort_all,
                drain=DRAIN_SEC,
                send_timeout=settings.api.send_timeout_sec,
            )
            await server.serve(sockets=[sock])


def _announce(settings: Settings, sock: socket.socket, demo: Path | None) -> None:
    host, port = sock.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else address}:{port}"
    _log.info("llama-router %s listens on %s:%d with %d model(s)", __version__, address, port, len(settings.models))
    _log.info("%s", _who_may_come_in(settings))
    if demo is not None:
        sys.stderr.write(welcome(url, next(iter(settings.models)), folder=demo, with_key=settings.api_key is not None))


def _who_may_come_in(settings: Settings) -> str:
    if settings.api_key is not None:
        return "API_KEY is set: clients must present it."
    if settings.api.allow_unauthenticated:
        return "No API_KEY, and api.allow_unauthenticated is true: everybody who reaches this port is served."
    return "No API_KEY: only clients on this machine are served."


def _run(main: Coroutine[object, object, None]) -> None:
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop  # noqa: PLC0415  not there on Windows

        uvloop.run(main)
