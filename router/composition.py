"""What a router is made of: its parts, and how they are tied together. Sees every layer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp

from router import __version__
from router.announcement import serving
from router.api.app import create_app
from router.api.body import BodyBudget
from router.api.door import Door
from router.api.door import Limits as DoorLimits
from router.api.forwarding import Proxies
from router.api.services import Services
from router.api.tickets import TicketOffice
from router.backends.capabilities import build_stamp
from router.backends.llama_server import LlamaServerLauncher
from router.config import ApiConfig, Settings
from router.core.types import Device, ModelSpec, Status
from router.descriptors import connections_that_fit
from router.devices.monitor import SystemDevices
from router.engine.engine import Engine
from router.inventory import CACHE_RAM_MB, MIB, Entry, kept_in_vain, working_dir
from router.learned import LearnedMemory
from router.notify import Notifier
from router.telemetry.access_log import AccessLog
from router.telemetry.logs import redact
from router.telemetry.metrics import Telemetry
from router.telemetry.status import StatusBus
from router.tuning import limits_of, policy_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Router:
    """A started router, without its socket."""

    engine: Engine
    services: Services
    launcher: LlamaServerLauncher
    learned: LearnedMemory
    notifier: Notifier
    app: ASGIApp
    door: Door

    @property
    def settings(self) -> Settings:
        """What holds now."""
        return self.services.settings

    def begin_shutdown(self) -> None:
        """Turn waiters away and end the status streams; what is being generated runs on."""
        self.services.status.close()
        self.engine.begin_close()

    # `reload.Holders`

    @property
    def accepting(self) -> bool:
        return self.engine.accepting

    @contextmanager
    def reloading(self) -> Iterator[None]:
        self.notifier.reloading()
        try:
            yield
        finally:
            self.services.status.refresh()
            if self.accepting:
                self.notifier.ready(serving(self.settings))

    def in_memory(self) -> tuple[str, ...]:
        return tuple(view.name for view in self.engine.views() if view.status in (Status.LOADING, Status.READY))

    def adopt(self, settings: Settings, entries: Sequence[Entry], changed: Sequence[str]) -> None:
        """Whoever needs something of another comes after it."""
        before = set(self.settings.preload)
        is_renewal = settings is self.settings  # of some models' files: the others have been told of
        redact_secrets(settings)
        self.learned.adopt(entries)
        self.launcher.adopt({entry.name: entry.launch_spec() for entry in entries}, working_dir=working_dir(settings))
        self.services.telemetry.adopt(settings.models, keys=[key.name for key in settings.keys.everyone])
        doubtful = [entry for entry in entries if not is_renewal or entry.name in changed]
        devices = [view.device for view in self.engine.devices()]
        self.engine.configure(
            models=_specs(settings, entries, self.learned, devices, doubtful),
            policy=policy_of(settings),
            limits=limits_of(settings),
            changed=changed,
        )
        self.services.apply(settings)
        for name in settings.preload:
            if name not in before and self.engine.view(name).status is Status.OFF:
                self.engine.load(name, evict=False)

    async def tidy(self) -> None:
        await self.launcher.tidy()


def assemble(
    settings: Settings,
    entries: tuple[Entry, ...],
    monitor: SystemDevices,
    info: Mapping[str, str],
    notifier: Notifier,
    *,
    access_log: AccessLog,
) -> Router:
    """Nothing of it runs yet.

    Args:
        info: what is told of llama.cpp; filled in later.
    """
    launcher = launcher_for(settings, entries, gpu_available=len(monitor.devices) > 1)
    build = build_stamp(settings.system.llama_server_path)
    learned = LearnedMemory(settings.state_dir, entries, monitor.devices, build)
    status = StatusBus()
    telemetry = Telemetry(
        [entry.name for entry in entries],
        version=__version__,
        status=status,
        keys=[key.name for key in settings.keys.everyone],
    )
    engine = Engine(
        models=_specs(settings, entries, learned, monitor.devices, entries),
        policy=policy_of(settings),
        limits=limits_of(settings),
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
    door = Door(_door_limits(settings.api), telemetry.connections)
    return Router(engine, services, launcher, learned, notifier, create_app(services, access_log), door)


def launcher_for(settings: Settings, entries: tuple[Entry, ...], *, gpu_available: bool) -> LlamaServerLauncher:
    """What starts these models' children."""
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


def redact_secrets(settings: Settings) -> None:
    """No log will ever hold these."""
    for secret in settings.keys.secrets:
        redact(secret)


def _specs(
    settings: Settings,
    entries: Sequence[Entry],
    learned: LearnedMemory,
    devices: Sequence[Device],
    doubtful: Sequence[Entry],
) -> list[ModelSpec]:
    """The models as the engine is to know them; what will not be as one might think stands in the log.

    Args:
        doubtful: of these it is told.
    """
    specs = [learned.apply(entry.model_spec(settings)) for entry in entries]
    for entry in doubtful:
        for doubt in entry.doubts(settings):
            _log.warning("%s", doubt)
    for warning in kept_in_vain(specs, devices, places=settings.system.max_concurrent_models):
        _log.warning("%s", warning)
    return specs


def _door_limits(api: ApiConfig) -> DoorLimits:
    connections = api.max_connections
    fitting = connections_that_fit(connections, requests=api.max_open_requests)
    if fitting < connections:
        _log.warning(
            "Only %d of api.max_connections = %d fit beside api.max_open_requests = %d into the limit of open files; "
            "raise it (`ulimit -n`, LimitNOFILE= in systemd), or lower them",
            fitting, connections, api.max_open_requests,
        )  # fmt: skip
    return DoorLimits(
        header_timeout=api.header_timeout_sec,
        body_timeout=api.body_timeout_sec,
        keep_alive=api.keep_alive_sec,
        send_timeout=api.send_timeout_sec,
        connections=fitting,
        per_peer=api.max_connections_per_peer,
        requests=api.max_open_requests,
        proxies=Proxies(api.forwarded_allow_ips),
    )
