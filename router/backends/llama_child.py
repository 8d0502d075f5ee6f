"""A running llama-server, behind the engine's Child port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from router.backends.child_log import ChildLog
from router.backends.control_client import ControlClient, NotOurs
from router.backends.exit_reason import PORT_IN_USE, exhausted, exit_reason, was_killed
from router.backends.oom import OomEvidence
from router.backends.port_pool import PortPool, out_of_descriptors
from router.backends.process_stat import process_stat
from router.backends.slot_keeper import SlotKeeper
from router.backends.spawned import Spawned
from router.engine.ports import ChildExit, LaunchError, LoadProgress, SlotReading, Upstream
from router.worker import apart

_log = logging.getLogger(__name__)

_POLL_SEC = 0.025  # so that readiness is seen well within 60 ms
_RESPAWNS = 2  # of one child whose port is snatched away


class LlamaServerChild:
    """A running llama-server. Made by `LlamaServerLauncher.launch`; `stop` it in any case.

    Should somebody take its port before it could, it is spawned again on another: `pid` and `port` are final once
    `ready` has returned.

    Args:
        respawn: spawns it once more, on another port; raises LaunchError.
        ended: called when its process has ended for good.
        expected_slots: its number of slots, should it not tell.
        keeper: of its conversations; None = they are not kept.
        cut: what it was told to do without, in words.
    """

    def __init__(
        self,
        spawned: Spawned,
        *,
        name: str,
        expected_slots: int,
        log: ChildLog,
        ports: PortPool,
        respawn: Callable[[], Awaitable[Spawned]],
        ended: Callable[[], None],
        stranger_patience: float,
        keeper: SlotKeeper | None = None,
        cut: str = "",
    ) -> None:
        self._now = spawned
        self._cut = cut
        self._name = name
        self._expected_slots = expected_slots
        self._log = log
        self._ports = ports
        self._respawn = respawn
        self._ended = ended
        self._stranger_patience = stranger_patience
        self._keeper = keeper
        self._slots = expected_slots
        self._stopping = False
        self._control = ControlClient(spawned.key)
        self._upstream = spawned.upstream()
        self._life = asyncio.create_task(self._live(), name=f"life of {name} {spawned.process.pid}")

    @property
    def pid(self) -> int:
        return self._now.process.pid

    @property
    def port(self) -> int:
        return self._now.port

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    @property
    def progress(self) -> LoadProgress:
        told = self._log.load
        return LoadProgress(told.projected, told.allocated, told.cut or self._cut)

    async def ready(self) -> int:
        """See `Child.ready`."""
        proof = asyncio.create_task(self._prove_ready())
        try:
            await asyncio.wait({proof, self._life}, return_when=asyncio.FIRST_COMPLETED)
            if self._life.done():
                raise LaunchError(self._life.result().reason)
            self._slots = proof.result()
            return self._slots
        finally:
            proof.cancel()
            await asyncio.gather(proof, return_exceptions=True)

    async def wait(self) -> ChildExit:
        return await asyncio.shield(self._life)

    async def healthy(self) -> bool:
        return await self._control.healthy(self.port) or out_of_descriptors()

    def halted(self) -> str:
        stat = process_stat(self.pid)
        return "" if stat is None else stat.halted

    def cpu_seconds(self) -> float:
        stat = process_stat(self.pid)
        return 0.0 if stat is None else stat.cpu_seconds

    async def slots(self) -> tuple[SlotReading, ...]:
        return await self._control.slots(self.port)

    async def restore_conversations(self) -> int:
        return 0 if self._keeper is None else await self._keeper.restore(self._control, self.port, self._slots)

    async def save_conversations(self) -> int:
        return 0 if self._keeper is None else await self._keeper.save(self._control, self.port)

    def tail(self, lines: int = 20) -> str:
        return self._log.tail(lines)

    async def stop(self, *, grace: float) -> ChildExit:
        """See `Child.stop`."""
        self._stopping = True
        # An attached client would hold the child up until its next ping (30 s), or for ever.
        self._upstream.pool.close()
        await self._control.close()
        if await self._now.process.stop(grace=grace) is None:
            return ChildExit(-9, f"{self._name} (pid {self.pid}) hangs in the kernel and cannot even be killed")
        return await self.wait()

    async def _live(self) -> ChildExit:
        """From the spawn to the end, over more than one process if a port was snatched away."""
        try:
            code = await self._now.process.wait()
            for _ in range(_RESPAWNS):
                if not self._lost_port(code):
                    break
                _log.info("port %d was taken before %s could bind it; trying another", self.port, self._name)
                try:
                    await self._move()
                except LaunchError as error:
                    return ChildExit(code, str(error))
                code = await self._now.process.wait()
            return await self._explain(code)
        finally:
            self._ports.give_back(self.port)
            self._log.close()
            self._ended()

    async def _explain(self, code: int) -> ChildExit:
        asked, lines, oom = self._now.process.asked_to_stop, self._log.lines(), OomEvidence.UNKNOWN
        if was_killed(code) and not asked:
            oom = await apart(self._now.witness.testify)
        reason = exit_reason(code, lines, asked=asked, name=self._name, oom=oom)
        return ChildExit(code, reason, exhausted=None if asked else exhausted(code, lines, oom=oom))

    def _lost_port(self, code: int) -> bool:
        return code != 0 and not self._stopping and any(PORT_IN_USE in line for line in self._log.lines())

    async def _move(self) -> None:
        self._log.start_over()
        spawned = await self._respawn()
        self._ports.give_back(self.port)
        self._now, self._control.key = spawned, spawned.key
        self._upstream.pool.close()
        self._upstream = spawned.upstream()
        if self._stopping:
            await spawned.process.stop(grace=0)

    async def _prove_ready(self) -> int:
        """Poll until it serves and is ours. Raises LaunchError when somebody else keeps answering in its place."""
        strangers_until: dict[int, float] = {}
        now = asyncio.get_running_loop().time
        while True:
            port = self.port
            try:
                if await self._control.healthy(port):
                    return await self._control.identify(port, expected_slots=self._expected_slots)
            except NotOurs as error:
                if now() > strangers_until.setdefault(port, now() + self._stranger_patience):
                    raise LaunchError(f"{self._name}: {error}") from error
            except OSError:
                pass  # it may have gone meanwhile, or be busy starting
            await asyncio.sleep(_POLL_SEC)
