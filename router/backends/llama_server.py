"""llama-server as a backend: one child per replica, behind the engine's Launcher port."""

from __future__ import annotations

import asyncio
import logging
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from router.backends.capabilities import Capabilities, Finder
from router.backends.child_log import ChildLog, log_file_name
from router.backends.control_client import warm_up
from router.backends.environment import child_environment
from router.backends.guard_link import Guard
from router.backends.keeping import Keeping
from router.backends.llama_argv import build_argv, names_cache, restrained, shortened
from router.backends.llama_child import LlamaServerChild
from router.backends.oom import OomWitness
from router.backends.pidfile import PidFile
from router.backends.port_pool import PortPool, is_shortage
from router.backends.process import ChildProcess
from router.backends.read_ahead import read_ahead
from router.backends.siblings import Siblings
from router.backends.slot_keeper import SlotKeeper
from router.backends.spawned import Spawned
from router.core.types import Placement, ReplicaId
from router.engine.ports import LaunchError
from router.worker import Worker, apart

_log = logging.getLogger(__name__)

# A stranger answers on our port while the child may still be on its way to notice that it cannot have it.
_STRANGER_SEC = 10.0
# That the state folder may take: for a folder in it, to delete conversations, and for all that is still to be written.
_MKDIR_SEC, _TIDY_SEC, _LAST_WRITES_SEC = 10.0, 60.0, 2.0


@dataclass(frozen=True, slots=True)
class LlamaServerSpec:
    """What the configuration says about one model's child.

    Attributes:
        model_path: the GGUF file, absolute.
        slots: parallel sequences, unless `flags` say so themselves.
        flags: handed to llama-server as they are.
        env: for this child alone.
        files: all parts of the model, if it is more than `model_path`.
        companions: what its flags have loaded beside it: projector, adapters, draft model.
        has_conversations: it writes text, so that what its slots remember is of use later.
        whole: flags for a load that fits whole, which switch llama.cpp's own fit off; empty where it stays on.
        contexts: tokens over all slots, at least and at most, where the flags leave them open.
        checkpoints: of the context, for each slot; None leaves llama-server's own number.
        checkpoint_bytes: of RAM, for one of each slot; 0 where `flags` say how many there are.
    """

    model_path: Path
    slots: int = 1
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    companions: tuple[Path, ...] = ()
    has_conversations: bool = True
    whole: tuple[str, ...] = ()
    contexts: tuple[int, int] | None = None
    checkpoints: int | None = None
    checkpoint_bytes: int = 0

    @property
    def all_files(self) -> tuple[Path, ...]:
        return self.files or (self.model_path,)

    def fit(self, placement: Placement) -> tuple[tuple[str, ...], str]:
        """The flags that keep llama.cpp's fit off where it has nothing to do, and what the router has cut, in words.

        On a machine without a GPU that fit looks at the RAM built in, not at what is left to this model.
        """
        if not placement.squeeze or self.contexts is None:
            return self.whole if placement.whole else (), ""
        tokens = shortened(self.contexts, self.slots, placement.squeeze)
        words = f"the context was shortened from {self.contexts[1]:,} to {tokens:,} tokens"
        return ("--fit", "off", "-c", str(tokens)), words

    def growth(self, placement: Placement, cache_ram_mb: int | None) -> tuple[int | None, int | None]:
        """MiB of prompt cache and number of checkpoints that it is told, None for nothing; see `restrained`."""
        ours = None if names_cache(self.flags, self.env) else cache_ram_mb
        if not placement.withheld:
            return ours, self.checkpoints
        return restrained(placement.withheld, ours, self.checkpoints, self.checkpoint_bytes)


class LlamaServerLauncher:
    """Starts llama-servers.

    Args:
        specs: by canonical model name, which is also the child's `--alias`.
        state_dir: for logs, the pid file, and as working directory of the children.
        base_port: children listen on loopback from here upward.
        binary: the configured llama-server; else the one on PATH, else the embedded llama.cpp.
        gpus_present: the machine has GPUs, so that they are hidden from children placed on none.
        cache_ram_mb: prompt cache per child; None leaves llama-server's default (8 GiB).
        working_dir: what relative paths in flags are relative to; `state_dir` by default.
        stranger_patience: seconds to wait for the child while another server answers on its port.
        keep_conversations_mb: disk space for what slots of unloaded models remembered; 0 = nothing is kept.
    """

    def __init__(
        self,
        specs: Mapping[str, LlamaServerSpec],
        *,
        state_dir: Path,
        base_port: int = 8085,
        binary: Path | None = None,
        gpus_present: bool = False,
        cache_ram_mb: int | None = None,
        working_dir: Path | None = None,
        stranger_patience: float = _STRANGER_SEC,
        keep_conversations_mb: int = 0,
    ) -> None:
        self._specs = dict(specs)
        self._state_dir = state_dir.absolute()
        self._working_dir = working_dir.absolute() if working_dir else self._state_dir
        self._gpus_present = gpus_present
        self._cache_ram_mb = cache_ram_mb
        self._stranger_patience = stranger_patience
        self._finder = Finder(binary)
        self._ports = PortPool(base_port)
        self._guard = Guard()
        # What is written into the state folder; a disk that hangs holds up this thread alone.
        self._disk = Worker("state folder")
        self._pid_file = PidFile(self._state_dir, self._guard.mark, self._disk.post)
        self._keeping = Keeping(self._state_dir / "conversations", keep_conversations_mb, self._working_dir)
        self._siblings = Siblings()
        # Asked before each load: whether the model's files are others than its spec was made for.
        self.renew: Callable[[str], Awaitable[bool]] | None = None
        self._preparing = asyncio.Lock()
        self._reaped = False

    @property
    def capabilities(self) -> Capabilities | None:
        """What was found, if that is known yet; never waits."""
        return self._finder.known

    def adopt(self, specs: Mapping[str, LlamaServerSpec], *, working_dir: Path) -> None:
        """Launch these from now on; what runs goes on as it was started."""
        self._specs = dict(specs)
        self._working_dir = self._keeping.working_dir = working_dir.absolute()

    async def tidy(self) -> None:
        """Delete the conversations that none of the models can go on with any more."""
        if (known := self._finder.known) is None:
            return
        try:
            await self._disk.run(partial(self._keeping.tidy, self._specs, known, alone=False), _TIDY_SEC)
        except TimeoutError:
            _log.warning("%s does not answer: conversations of no more use are still there", self._state_dir)

    async def prepare(self) -> Capabilities:
        """Do early what the first launch would do: reap what a dead router left behind, find llama.cpp, ask it.

        Idempotent. Raises LaunchError when there is no llama.cpp to run.
        """
        async with self._preparing:
            if not self._reaped:
                await asyncio.to_thread(self._pid_file.reap_leftovers)
                await asyncio.to_thread(warm_up)
                self._reaped = True
            if (known := self._finder.known) is None:
                known = await self._finder.find()
                await asyncio.to_thread(self._keeping.tidy, self._specs, known, alone=True)
        return known

    async def launch(self, model: str, replica: ReplicaId, placement: Placement) -> LlamaServerChild:
        """See `Launcher.launch`."""
        capabilities = await self.prepare()
        if self.renew is not None and await self.renew(model):
            raise LaunchError(f"the files of {model} were replaced")
        spec = self._specs.get(model)
        if spec is None:
            raise LaunchError(f"{model} has been removed from the configuration")
        await apart(partial(_refuse_pipes, (*spec.all_files, *spec.companions)))
        place = self._siblings.take(model)
        log = ChildLog(self._state_dir / "logs" / log_file_name(model, place.number), post=self._disk.post)
        keeper: SlotKeeper | None = None

        async def spawn() -> Spawned:
            return await self._spawn(capabilities, model, placement, log, keeper, spec=spec)

        try:
            keeper = await apart(partial(self._keeping.keeper, model, spec, capabilities, alone=place.alone))
            spawned = await spawn()
        except BaseException:
            log.close()
            self._siblings.leave(place)
            raise
        _log.info("started %s for %s (replica %d): pid %d, port %d", capabilities.name, model, replica,
                  spawned.process.pid, spawned.port)  # fmt: skip
        _tell_withheld(model, spec, placement)
        return LlamaServerChild(
            spawned,
            name=capabilities.name,
            expected_slots=spec.slots,
            log=log,
            ports=self._ports,
            respawn=spawn,
            ended=lambda: self._siblings.leave(place),
            stranger_patience=self._stranger_patience,
            keeper=keeper,
            cut=spec.fit(placement)[1],
        )

    async def read_ahead(self, model: str, room: Callable[[], int]) -> None:
        """See `Launcher.read_ahead`."""
        if (spec := self._specs.get(model)) is not None:
            await read_ahead((*spec.all_files, *spec.companions), room)

    async def _spawn(
        self,
        capabilities: Capabilities,
        model: str,
        placement: Placement,
        log: ChildLog,
        keeper: SlotKeeper | None,
        *,
        spec: LlamaServerSpec,
    ) -> Spawned:
        """Spawn on a port that is free now. Raises LaunchError; then nothing is left of it."""
        key, port = secrets.token_urlsafe(32), 0
        log.redact(key)
        try:
            port = self._ports.take()
            process = await ChildProcess.start(
                self._argv(capabilities, model, port, placement, None if keeper is None else keeper.path, spec=spec),
                env=child_environment(
                    spec.env,
                    key=key,
                    gpus=[int(device.removeprefix("gpu:")) for device in placement.visible or placement.gpus],
                    hide_gpus=self._gpus_present,
                    embedded=capabilities.kind == "embedded",
                ),
                cwd=await self._make_working_dir(),
                output=log.feed,
                guard=self._guard,
                pid_file=self._pid_file,
            )
        except BaseException as error:
            self._ports.give_back(port)
            if isinstance(error, OSError):
                message = f"cannot start {capabilities.name}: {error.strerror or error}"
                raise LaunchError(message, passing=is_shortage(error)) from error
            raise
        log.note(f"{capabilities.name} started, pid {process.pid}, port {port}")
        return Spawned(port, key, process, OomWitness(process.pid))

    async def _make_working_dir(self) -> Path:
        try:
            await self._disk.run(partial(self._working_dir.mkdir, parents=True, exist_ok=True), _MKDIR_SEC)
        except TimeoutError as error:
            raise LaunchError(f"{self._working_dir} does not answer: its disk hangs", passing=True) from error
        except OSError:
            return Path("/")  # a disk that is full or read-only does not keep models from running
        return self._working_dir

    async def close(self) -> None:
        """See `Launcher.close`."""
        await self._guard.close()
        try:
            await self._disk.run(lambda: None, _LAST_WRITES_SEC)
        except TimeoutError:
            _log.error("%s does not take what is written to it: the ends of logs are missing", self._state_dir)
        self._disk.stop()

    def _argv(
        self,
        capabilities: Capabilities,
        model: str,
        port: int,
        placement: Placement,
        slot_save_path: Path | None,
        *,
        spec: LlamaServerSpec,
    ) -> tuple[str, ...]:
        cache_ram_mb, checkpoints = spec.growth(placement, self._cache_ram_mb)
        return build_argv(
            capabilities,
            alias=model,
            model_path=spec.model_path,
            port=port,
            slots=spec.slots,
            flags=spec.flags,
            whole=spec.fit(placement)[0],
            shares=placement.shares,
            cache_ram_mb=cache_ram_mb,
            checkpoints=checkpoints,
            slot_save_path=slot_save_path,
        )


def _refuse_pipes(files: Iterable[Path]) -> None:
    """What is there and is no file, llama-server may wait for until its load times out."""
    for file in files:
        with suppress(OSError):  # it is gone: llama-server says so
            if not stat.S_ISREG(file.stat().st_mode):
                raise LaunchError(f"{file} is not a file")


def _tell_withheld(model: str, spec: LlamaServerSpec, placement: Placement) -> None:
    if not placement.withheld:
        return
    amount = -(-placement.withheld // 1024**2)
    if names_cache(spec.flags, spec.env):
        _log.warning("%s may take %d MiB more RAM than the budget holds, as its own flags say how large its prompt "
                     "cache gets: lower its --cache-ram", model, amount)  # fmt: skip
    else:
        _log.info("%s gets %d MiB less for its prompt cache and checkpoints, as the budget for RAM holds no more",
                  model, amount)  # fmt: skip
