"""Reads the files of a model that is about to be loaded, while another one still makes room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from router.core.types import HOST, DeviceView
from router.engine.ports import Launcher

_MARGIN_SHARE = 0.05
_MARGIN_BYTES = 512 * 1024**2


class ReadAhead:
    """Owns one task per model that is read ahead.

    Args:
        room: see `Launcher.read_ahead`.
    """

    def __init__(self, launcher: Launcher, room: Callable[[], int]) -> None:
        self._launcher = launcher
        self._room = room
        self._current: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, model: str) -> None:
        """Start reading; idempotent while it goes on."""
        if model in self._current:
            return
        task = asyncio.create_task(self._launcher.read_ahead(model, self._room), name=f"read {model} ahead")
        self._current[model] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, model: str) -> None:
        """Its load has begun, or is not wanted any more."""
        task = self._current.pop(model, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def spare_ram(devices: Iterable[DeviceView]) -> int:
    """Bytes of RAM that nobody uses and no load is about to take, less a margin."""
    host = next((view for view in devices if view.device.id == HOST), None)
    if host is None:
        return 0
    coming = max(0, host.booked - host.seen)
    return host.free - coming - max(round(host.total * _MARGIN_SHARE), _MARGIN_BYTES)
