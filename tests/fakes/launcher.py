"""Children that do what a test tells them, behind the engine's ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.core.types import HOST, Device, DeviceId, DeviceKind, DeviceReading, Exhaustion, Placement, ReplicaId
from router.engine.ports import ChildExit, LaunchError, LoadProgress, SlotReading, Upstream
from router.wire.pool import Pool

GIB = 1024**3


class FakeChild:
    def __init__(self, model: str, replica: ReplicaId) -> None:
        self.model = model
        self.replica = replica
        self.pid = 100_000 + replica
        self.port = 9000 + replica
        self.upstream = self.no_upstream()
        self.slot_count = 1
        self.readings: tuple[SlotReading, ...] = ()
        self.silent_slots = False  # no answer to `/slots`
        self.works = False  # a slot moves on from one reading to the next
        self.stuck: tuple[SlotReading, ...] = ()  # beside that one
        self.hold_stop: asyncio.Event | None = None  # its end waits for this
        self.kept = 0  # conversations that it saves and restores
        self.saves = 0
        self.hold_save: asyncio.Event | None = None
        self.restores = 0
        self.hold_restore: asyncio.Event | None = None
        self.progress = LoadProgress()
        self.is_healthy = True
        self.halt = ""  # why its process does not run
        self.halts: list[str] = []  # said first, one after the other
        self.on_health: Callable[[], None] = lambda: None
        self.cpu = 0.0
        self.cpu_step = 0.0  # computed between two readings
        self.health_checks = 0
        self.stops: list[float] = []
        self._steps = 0
        self._ready: asyncio.Future[ChildExit | None] = asyncio.get_running_loop().create_future()
        self._exit: asyncio.Future[ChildExit | None] = asyncio.get_running_loop().create_future()

    @staticmethod
    def no_upstream() -> Upstream:
        """No request is sent in these tests, and nothing listens there."""
        return Upstream("http://127.0.0.1:9", Pool("127.0.0.1", 9), "Bearer x")

    def become_ready(self, slots: int = 1) -> None:
        self.slot_count = slots
        if not self._ready.done():
            self._ready.set_result(None)

    def die(self, reason: str = "killed", code: int = -9, *, exhausted: Exhaustion | None = None) -> None:
        if not self._exit.done():
            self._exit.set_result(ChildExit(code, reason, exhausted=exhausted))

    async def ready(self) -> int:
        await asyncio.wait((self._ready, self._exit), return_when=asyncio.FIRST_COMPLETED)
        if self._exit.done():
            raise LaunchError((await self.wait()).reason)
        return self.slot_count

    async def wait(self) -> ChildExit:
        ended = await asyncio.shield(self._exit)
        assert ended is not None
        return ended

    async def healthy(self) -> bool:
        self.health_checks += 1
        self.on_health()
        return self.is_healthy

    def halted(self) -> str:
        return self.halts.pop(0) if self.halts else self.halt

    def cpu_seconds(self) -> float:
        self.cpu += self.cpu_step
        return self.cpu

    async def slots(self) -> tuple[SlotReading, ...]:
        if self.silent_slots:
            raise TimeoutError
        if self.works:
            self._steps += 1
            return (*self.stuck, SlotReading(0, busy=True, task=9, progress=self._steps))
        return self.readings

    async def restore_conversations(self) -> int:
        self.restores += 1
        if self.hold_restore is not None:
            await self.hold_restore.wait()
        return self.kept

    async def save_conversations(self) -> int:
        self.saves += 1
        if self.hold_save is not None:
            await self.hold_save.wait()
        return self.kept

    def tail(self, lines: int = 20) -> str:
        return "log"

    async def stop(self, *, grace: float) -> ChildExit:
        self.stops.append(grace)
        if self.hold_stop is not None:
            await self.hold_stop.wait()
        self.die("stopped", -15)
        return await self.wait()


@dataclass
class FakeLauncher:
    """Launches children that become ready at once, unless told otherwise."""

    ready_at_once: bool = True
    slots: int = 1
    refuse: str = ""
    hangs: bool = False  # no launch comes to an end
    children: list[FakeChild] = field(default_factory=list)
    closed: bool = False
    kept: int = 0  # conversations of each child
    hold_restore: asyncio.Event | None = None  # no child has them back before that
    ahead: list[str] = field(default_factory=list)  # models that are being read
    room: int = 0  # as seen by the last of them

    async def launch(self, model: str, replica: ReplicaId, placement: Placement) -> FakeChild:
        if self.refuse:
            raise LaunchError(self.refuse)
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        child = FakeChild(model, replica)
        child.kept, child.hold_restore = self.kept, self.hold_restore
        if self.ready_at_once:
            child.become_ready(self.slots)
        self.children.append(child)
        return child

    async def read_ahead(self, model: str, room: Callable[[], int]) -> None:
        self.ahead.append(model)
        self.room = room()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ahead.remove(model)

    async def close(self) -> None:
        self.closed = True

    @property
    def models(self) -> list[str]:
        return [child.model for child in self.children]


class FakeDevices:
    """16 GiB of RAM of which nobody takes any, and GPUs made to order.

    Attributes:
        held: bytes on GPUs by pid, of our children and of strangers; a test writes them.
        looks: how often they were read.
    """

    def __init__(self, *gpus_gib: int) -> None:
        gpus = (
            Device(f"gpu:{index}", DeviceKind.GPU, index, f"GPU {index}", gib * GIB, gib * GIB)
            for index, gib in enumerate(gpus_gib)
        )
        self.devices = (*gpus, Device(HOST, DeviceKind.HOST, None, "RAM", 16 * GIB, 16 * GIB))
        self.held: dict[int, dict[DeviceId, int]] = {}
        self.looks = 0

    async def read(self) -> tuple[DeviceReading, ...]:
        self.looks += 1
        used = {device.id: sum(held.get(device.id, 0) for held in self.held.values()) for device in self.devices}
        return tuple(DeviceReading(d.id, d.total, used[d.id], d.total - used[d.id]) for d in self.devices)

    async def usage(self, pid: int) -> Mapping[DeviceId, int]:
        return {HOST: GIB // 2, **self.held.get(pid, {})}

    async def high_water(self, pid: int) -> Mapping[DeviceId, int]:
        return {HOST: GIB // 2}
