"""What the engine asks of the world: protocols that backends and devices implement.

A fake implements the same protocols; `tests/contract` holds both to one suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from router.core.types import (
    Device,
    DeviceId,
    DeviceReading,
    Exhaustion,
    ModelView,
    Placement,
    Priority,
    ReplicaId,
    Status,
)
from router.wire.pool import Pool

# Until the process runs; until it has read its model and serves; until its conversations are back and it is granted.
LoadPhase = Literal["spawn", "read", "ready"]
LOAD_PHASES: tuple[LoadPhase, ...] = ("spawn", "read", "ready")
# The longest that a child may take to save one conversation, or to restore one, in seconds.
KEEP_TIMEOUT_SEC = 30.0
ConversationEvent = Literal["saved", "restored"]
CONVERSATION_EVENTS: tuple[ConversationEvent, ...] = ("saved", "restored")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a request goes: one replica's HTTP server.

    Attributes:
        url: `http://127.0.0.1:<port>`, no trailing slash.
        pool: this replica's own connections; closed when the replica stops.
        authorization: value of the `Authorization` header that the child demands. Secret: never log it.
    """

    url: str
    pool: Pool
    authorization: str


@dataclass(frozen=True, slots=True)
class SlotReading:
    """One slot of a child.

    Attributes:
        task: number of its last task, in the order in which the child took them; -1 = none since its start.
        progress: grows while it works (prompt tokens processed + tokens decoded).
        tokens: what it remembers.
        reading: it has not decoded a token of its answer yet.
        context: tokens that it has room for; 0 = not told.
    """

    id: int
    busy: bool
    task: int
    progress: int
    tokens: int = 0
    reading: bool = False
    context: int = 0


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a child ended.

    Attributes:
        code: exit code, negative for a signal (as in `subprocess`).
        reason: a sentence for people: the child's own words where it left any, e.g.
            `llama-server exited with code 1: unable to allocate CPU buffer`.
        passing: the cause may pass by itself, and another try may do better: it took too long to become ready, or
            the router was short of something.
        exhausted: the memory that it did not get enough of, if that was why.
        halted: its process does not run, so that only SIGKILL ends it.
    """

    code: int
    reason: str
    passing: bool = False
    exhausted: Exhaustion | None = None
    halted: bool = False


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """What a child has told of its load so far.

    Attributes:
        projected: (bytes on GPUs, bytes in RAM) that it means to take, told before it allocates them.
        allocated: it has all the memory that the load takes.
        cut: what llama.cpp has cut to make it fit, in words; empty for nothing.
    """

    projected: tuple[int, int] | None = None
    allocated: bool = False
    cut: str = ""


class LaunchError(Exception):
    """A child could not be started or did not become ready; the message is for people.

    Args:
        passing: see `ChildExit.passing`.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class Child(Protocol):
    """A running llama-server (or what stands for one)."""

    @property
    def pid(self) -> int: ...

    @property
    def port(self) -> int: ...

    @property
    def upstream(self) -> Upstream: ...

    @property
    def progress(self) -> LoadProgress:
        """What it has told of its load so far."""

    async def ready(self) -> int:
        """Wait until it can serve and is proved to be ours; returns its number of slots (≥ 1).

        No deadline of its own: the caller sets one. Raises LaunchError when the child died or is not ours.
        """

    async def wait(self) -> ChildExit:
        """Wait for the end of the process. May be awaited by several tasks and after the end."""

    async def healthy(self) -> bool:
        """One liveness check with a deadline of its own; never raises."""

    def halted(self) -> str:
        """Why its process does not run though it is there, to follow "its process"; empty when it may run."""

    def cpu_seconds(self) -> float:
        """CPU time that its process has taken so far; stands still where that cannot be told."""

    async def slots(self) -> tuple[SlotReading, ...]:
        """The state of its slots. Raises OSError or TimeoutError when it does not answer in time."""

    async def restore_conversations(self) -> int:
        """Give its slots back what they remembered before the last unload; returns how many.

        Once, between `ready` and the first request. Takes no longer than it can spare; never raises.
        """

    async def save_conversations(self) -> int:
        """Keep what its idle slots remember for the next time; returns how many. Bounded likewise; never raises."""

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""

    async def stop(self, *, grace: float) -> ChildExit:
        """Close our sockets to it, TERM the process group, KILL it after `grace` seconds (0 = at once); idempotent."""


class Launcher(Protocol):
    """Starts children."""

    async def launch(self, model: str, replica: ReplicaId, placement: Placement) -> Child:
        """Spawn a child and return at once, before it is ready. Raises LaunchError."""

    async def read_ahead(self, model: str, room: Callable[[], int]) -> None:
        """Have a model's files read into RAM that nobody uses, so that its load finds them there.

        `room` tells how many bytes of it there are now. Ends by itself; never raises; cancel it to stop.
        """

    async def close(self) -> None:
        """Let go of everything that outlives single children; all of them are stopped by now."""


class DeviceMonitor(Protocol):
    """The memories of this machine."""

    @property
    def devices(self) -> tuple[Device, ...]: ...

    async def read(self) -> tuple[DeviceReading, ...]:
        """All devices now. A device that cannot be read keeps its last value; never raises."""

    async def usage(self, pid: int) -> Mapping[DeviceId, int]:
        """Bytes held by this process and its descendants per device; devices that cannot tell are left out."""

    async def high_water(self, pid: int) -> Mapping[DeviceId, int]:
        """The most that they ever held, where somebody keeps count of it; other devices are left out."""


class Observer(Protocol):
    """Told of what happens, synchronously; must not block and must not raise."""

    def model_changed(self, view: ModelView, previous: Status) -> None: ...

    def granted(self, model: str, priority: Priority, waited: float) -> None: ...

    def load_finished(self, model: str, seconds: float, ok: bool) -> None: ...

    def load_phases(self, model: str, phases: Mapping[LoadPhase, float]) -> None:
        """Where the time of a successful load went, in seconds."""

    def conversations(self, model: str, event: ConversationEvent, count: int) -> None:
        """So many were saved before an unload, or restored after a load."""

    def evicted(self, model: str, for_model: str) -> None: ...

    def restarted(self, model: str) -> None: ...

    def recycled(self, model: str, held: int) -> None:
        """Its idle replica is started anew, since it holds so many bytes of RAM."""
