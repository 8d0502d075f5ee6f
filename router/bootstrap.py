"""The order of start-up and of shutdown."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from router.announcement import announce, serving
from router.api.server import Server, hush_uvicorn, listen
from router.backends.llama_server import LlamaServerLauncher
from router.backends.spawn import wait_for_orphans
from router.composition import Router, assemble, launcher_for, redact_secrets
from router.config import Settings, load_settings
from router.demo import prepare_demo, wants_demo
from router.devices.monitor import SystemDevices
from router.ending import leave_hung_threads_behind
from router.engine.ports import LaunchError
from router.errors import ConfigError, Problem
from router.inventory import inventory
from router.learned import LearnedMemory
from router.notify import Notifier, keep_alive
from router.reload import Reloader
from router.report import models_table
from router.signals import Signals
from router.state_lock import state_lock
from router.telemetry.access_log import AccessLog
from router.telemetry.logs import configure_logging
from router.telemetry.status import StatusBus
from router.tuning import budget_of

_log = logging.getLogger(__name__)

_COLLECTOR_THRESHOLDS = (50_000, 20, 100)
_STOP_SEC = 5.0  # for all that comes after the open requests, and more than it takes
_SAVE_SEC = _HUNG_SEC = 1.0


def serve(*, config: Path | None, host: str | None, port: int | None) -> int:
    """Run until told to stop; returns the exit code. Raises ConfigError, DemoError, OSError."""
    configure_logging()
    hush_uvicorn()
    notifier = Notifier.from_environment(os.environ)
    config, demo = _config_or_demo(config)

    def read() -> Settings:
        return load_settings(config_path=config, environ=os.environ, host=host, port=port)

    settings = read()
    _check_state_dir(settings)
    with (
        listen(settings.api.host, settings.api.port) as sock,
        state_lock(settings.state_dir, str(settings.source or "settings")),
    ):
        faulthandler.enable()  # what native code brings down would leave no word in the log
        _run(_serve(settings, read, sock, demo, notifier))
    return 0


async def describe_models(*, config: Path | None, host: str | None, port: int | None) -> str:
    """What `models` prints. Raises ConfigError, DemoError."""
    config, demo = _config_or_demo(config)
    settings = load_settings(config_path=config, environ=os.environ, host=host, port=port)
    monitor = await SystemDevices.open(settings.system.gpu_devices, budget_of(settings))
    try:
        gpu_available = len(monitor.devices) > 1
        entries = await asyncio.to_thread(inventory, settings, gpu_available=gpu_available)
        llama = await _find_llama(launcher_for(settings, entries, gpu_available=gpu_available), {})
        table = await asyncio.to_thread(models_table, entries, monitor.devices, await monitor.read())
    finally:
        await monitor.close()
    origin = "The models of the demo, since there is no config.json here.\n" if demo else ""
    return f"{origin}llama.cpp: {llama}\n{table}"


def _config_or_demo(config: Path | None) -> tuple[Path | None, Path | None]:
    """The configuration file to read, and the demo's folder if it is the demo's."""
    if not wants_demo(config, os.environ, Path.cwd()):
        return config, None
    folder = Path.cwd() / ".llama-router" / "demo"
    return prepare_demo(folder), folder


def _check_state_dir(settings: Settings) -> None:
    """Find out now, and not at the first load, that nothing can be kept."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=settings.state_dir):
            pass
    except OSError as error:
        problem = Problem("system.state_dir", f"cannot be written: {settings.state_dir}: {error.strerror}")
        raise ConfigError(str(settings.source or "settings"), [problem]) from error


@asynccontextmanager
async def running(
    settings: Settings, read: Callable[[], Settings], access_log: AccessLog, notifier: Notifier, asked: asyncio.Event
) -> AsyncIterator[Router]:
    """Build everything, start it, and take it down again in reverse order, whatever happens.

    Args:
        read: the settings once more; blocking.
        asked: set to have that done.
    """
    redact_secrets(settings)
    monitor = await SystemDevices.open(settings.system.gpu_devices, budget_of(settings))
    try:
        gpu_available = len(monitor.devices) > 1
        for note in (*settings.notes, *monitor.notes, monitor.gpu_reason):
            if note:
                _log.info("%s", note)
        entries = await asyncio.to_thread(inventory, settings, gpu_available=gpu_available)
        info: dict[str, str] = {"llama_server": "looking for it"}
        router = assemble(settings, entries, monitor, info, notifier, access_log=access_log)
        news = router.services.telemetry.reloads
        reloader = Reloader(
            settings, entries, read=read, gpu_available=gpu_available, holders=router, news=news, asked=asked
        )
        router.services.reload = reloader
        router.launcher.renew = reloader.renew
        background = [
            asyncio.create_task(_find_llama(router.launcher, info), name="find llama.cpp"),
            asyncio.create_task(_keep_learned(router.services.status, router.learned), name="keep what is learned"),
            asyncio.create_task(keep_alive(notifier, router.engine.troubles), name="tell systemd"),
            asyncio.create_task(router.services.telemetry.heartbeat.run(), name="heartbeat"),
            asyncio.create_task(wait_for_orphans(), name="wait for orphans"),
        ]
        try:
            await router.engine.start()
            # From here on: what was asked for earlier is done now, and not refused.
            background.append(asyncio.create_task(reloader.serve(), name="read the configuration anew"))
            for name in settings.preload:
                router.engine.load(name, evict=False)
            yield router
        finally:
            router.services.status.close()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            reloader.close()
            await router.engine.close()
            told = [router.learned.note(view) for view in router.engine.views()]
            if any(told):
                await router.learned.save_within(_SAVE_SEC)
    finally:
        await monitor.close()


async def _find_llama(launcher: LlamaServerLauncher, info: dict[str, str]) -> str:
    """Ask llama.cpp what it can while the router already listens; a slow binary must not delay that.

    Everybody may see `info`, by `/health`, so it holds no path; the operator gets to know more.
    """
    try:
        found = await launcher.prepare()
    except LaunchError as error:
        info["llama_server"] = "unavailable, the router's log tells why"
        _log.error("%s", error)
        return f"unavailable: {error}"
    info["llama_server"] = found.told()
    _log.info("llama.cpp: %s", found)
    return str(found)


async def _keep_learned(status: StatusBus, learned: LearnedMemory) -> None:
    with status.subscribe() as changes:
        async for view in changes:
            if view is not None and learned.note(view):
                await asyncio.to_thread(learned.save)


def _calm_collector() -> None:
    """Leave what has been made so far out of every later collection, and collect rarely.

    Full passes over the heap were the longest pauses of the loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


async def _serve(
    settings: Settings, read: Callable[[], Settings], sock: socket.socket, demo: Path | None, notifier: Notifier
) -> None:
    """Until told to stop, which may be before it has begun."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    signals = Signals(task.cancel)
    with signals.handled(), suppress(asyncio.CancelledError), AccessLog() as access_log:
        async with running(settings, read, access_log, notifier, signals.reload) as router:
            _calm_collector()

            def begin() -> None:
                announce(settings, sock, demo)
                notifier.ready(serving(settings))

            def begin_shutdown() -> None:
                notifier.stopping(router.settings.system.drain_timeout_sec + _STOP_SEC)
                router.begin_shutdown()

            server = Server(
                router.app,
                on_listening=begin,
                on_exit=begin_shutdown,
                on_deadline=router.engine.abort_all,
                on_hurry=router.engine.hurry,
                drain=lambda: router.settings.system.drain_timeout_sec,
                door=router.door,
            )
            signals.stop = server.exit
            await server.serve(sockets=[sock])
    leave_hung_threads_behind(_HUNG_SEC)


def _run(main: Coroutine[object, object, None]) -> None:
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop  # noqa: PLC0415  not there on Windows

        uvloop.run(main)
