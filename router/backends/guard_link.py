"""The router's side of the guard: starts it, tells it who lives, replaces it when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path

from router.backends.environment import inherited
from router.backends.process_group import kill_group
from router.backends.spawn import OsProcess

_log = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("guard.py")
# A guard that dies younger than this is replaced after a pause, so that a broken Python cannot make us spin.
_HEALTHY_AGE_SEC = 10.0
_PAUSE_SEC = 1.0
_CLOSE_SEC = 2.0


class Guard:
    """One guard process per router, started on first use.

    A child is registered by the shell that becomes it (see `process`): the shell's stdin is this guard's pipe, so there
    is no moment at which the router could die and leave a child behind that the guard does not know.
    On Windows there is no guard; children then outlive a router that is killed, until the next start reaps them.
    """

    def __init__(self) -> None:
        # Of this router: those of its children begin with it.
        self.mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._groups: set[int] = set()
        self._process: OsProcess | None = None
        self._pipe: int | None = None
        self._started_at = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The guard's process id; None before the first use."""
        return self._process.pid if self._process else None

    async def pipe(self) -> int:
        """The write end of the guard's pipe. Raises OSError when no guard can be started."""
        async with self._starting:
            if self._pipe is None or self._process is None or self._process.returncode is not None:
                await self._start()
            if self._keeper is None:
                self._keeper = asyncio.create_task(self._keep(), name="guard keeper")
            assert self._pipe is not None  # noqa: S101  _start has just set it
            return self._pipe

    def add(self, group: int) -> None:
        """Remember a group for the guard that may follow this one; tells this one too, which does no harm."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group has ended; its number may soon be somebody else's."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    async def close(self) -> None:
        """Let the guard go; it kills what is still registered."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        async with self._starting:
            self._drop_pipe()
            process, self._process = self._process, None
        if process is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SEC):
                await process.wait()
        except TimeoutError:
            kill_group(process.pid)
            await process.wait()

    async def _start(self) -> None:
        """Start a guard and tell it of all that live."""
        self._drop_pipe()
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        try:
            process = OsProcess(
                (sys.executable, "-I", "-S", str(_PROGRAM), self.mark),
                env=inherited(), cwd=Path("/"), stdin=read_end, output=subprocess.DEVNULL,
            )  # fmt: skip
            await process.started()
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._process, self._pipe = process, write_end
        self._started_at = asyncio.get_running_loop().time()
        for group in self._groups:
            self._tell(f"+{group}\n")

    async def _keep(self) -> None:
        """Replace a guard that died."""
        while self._process is not None:
            code = await self._process.wait()
            _log.warning("the guard of the child processes ended with code %d; starting another", code)
            if asyncio.get_running_loop().time() - self._started_at < _HEALTHY_AGE_SEC:
                await asyncio.sleep(_PAUSE_SEC)
            try:
                await self.pipe()
            except OSError as error:
                _log.error("cannot start a guard for the child processes: %s", error)
                await asyncio.sleep(_PAUSE_SEC)

    def _tell(self, line: str) -> None:
        if self._pipe is None:
            return
        # A dead guard is replaced, and its successor is told of all that live.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._pipe, line.encode())

    def _drop_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
