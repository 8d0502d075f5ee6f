"""A child process: spawned into a group of its own, drained, stopped, reaped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from router.backends.guard import MARK, kill_marked
from router.backends.guard_link import Guard
from router.backends.output_pipe import OutputPipe
from router.backends.pidfile import PidFile
from router.backends.process_group import kill_group, terminate_group
from router.backends.spawn import OsProcess

_log = logging.getLogger(__name__)

# The shell registers its own number, which is also its group's and stays the same over `exec`, before it becomes the
# child. The guard's pipe is its stdin because dash redirects no descriptor above 9. The child holds no end of the pipe.
_REGISTER_THEN_BECOME = 'echo "+$$" >&0 && exec "$@" </dev/null'
# A grandchild in a session of its own may hold the output open; then what it says later is lost.
_LAST_WORDS_SEC = 0.5
# A killed process that is still there hangs in the kernel, usually in a driver; nobody can end it.
_KILL_SEC = 10.0
_NUMBERS = itertools.count(1)
# Twenty threads that look for strays at once would leave the loop little of the interpreter in between.
_ONE_AT_A_TIME = threading.Lock()


class ChildProcess:
    """One process group.

    Its output goes to a pipe of ours, read here, and not through asyncio's, whose `wait` would hang for as long as a
    grandchild holds it.
    """

    def __init__(self, process: OsProcess, output: OutputPipe, *, guard: Guard, pid_file: PidFile) -> None:
        self.pid = process.pid
        self._process = process
        self._output = output
        self._guard = guard
        self._pid_file = pid_file
        self._asked = False
        guard.add(self.pid)
        pid_file.add(self.pid)
        self._reaper = asyncio.create_task(self._reap(), name=f"reaper of {self.pid}")

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Callable[[bytes], None],
        guard: Guard,
        pid_file: PidFile,
    ) -> ChildProcess:
        """Spawn `argv`. Raises OSError; a program that is missing ends with code 127 or 126 instead."""
        pipe, write_end = OutputPipe.open(output)
        try:
            stdin = subprocess.DEVNULL if sys.platform == "win32" else await guard.pipe()
            command = argv if sys.platform == "win32" else ("/bin/sh", "-c", _REGISTER_THEN_BECOME, "sh", *argv)
            mark = f"{guard.mark}.{next(_NUMBERS)}"
            process = OsProcess(
                command,
                env={**env, MARK: mark},
                cwd=cwd,
                stdin=stdin,
                output=write_end,
                afterwards=lambda: _end_strays(mark),
            )
            try:
                await process.started()
            except asyncio.CancelledError:
                guard.forget(process.pid)
                raise
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(write_end)
        return cls(process, pipe, guard=guard, pid_file=pid_file)

    @property
    def asked_to_stop(self) -> bool:
        """Whether its end was our wish."""
        return self._asked

    async def wait(self) -> int:
        """Wait until it has ended and its group is gone; the exit code, negative for a signal."""
        return await asyncio.shield(self._reaper)

    async def stop(self, *, grace: float) -> int | None:
        """TERM the group, KILL it after `grace` seconds; the exit code, None if even that did not end it.

        May be called again, with a shorter grace too.
        """
        if not self._reaper.done():
            # A second TERM makes llama-server drop everything, so there is only one.
            if grace > 0 and not self._asked:
                terminate_group(self.pid)
            self._asked = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    return await self.wait()
            kill_group(self.pid)
        try:
            async with asyncio.timeout(_KILL_SEC):
                return await self.wait()
        except TimeoutError:
            _log.error("process %d is still there %g s after SIGKILL: it hangs in the kernel", self.pid, _KILL_SEC)
            return None

    async def _reap(self) -> int:
        code = await self._process.wait()
        kill_group(self.pid)
        self._guard.forget(self.pid)
        self._pid_file.remove(self.pid)
        await self._output.drain(timeout=_LAST_WORDS_SEC)
        return code


def _end_strays(mark: str) -> None:
    with _ONE_AT_A_TIME:
        kill_marked(mark)
