"""Starting a process and waiting for its end, the same on every event loop.

Not by the loop's own `create_subprocess_exec`: uvloop duplicates what it is given as stdin inheritably, so that each
child would hold an end of the guard's pipe, and the guard would never see the router's end. `subprocess` closes all
that is not meant for the child; and in a thread it does not stall the loop until the program has been loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.backends.process_group import kill_group

# A fork keeps the interpreter's lock until the program has been loaded. Twenty threads that do so one after the other
# would leave the loop none of it in between.
_ONE_AT_A_TIME = threading.Lock()
# Those that have been started here and that a thread waits for; to be read with the lock held.
_OURS: set[int] = set()
_LOOK_SEC = 0.5


class OsProcess:
    """One process, leader of a session and a group of its own, with a thread that starts it and waits for its end.

    Await `started` first. `stdin` and `output` (stdout and stderr) are descriptors, or `subprocess.DEVNULL`; they must
    stay open until it has started. `afterwards` is called in its thread once it has ended; nobody waits for that.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        stdin: int,
        output: int,
        afterwards: Callable[[], None] = lambda: None,
    ) -> None:
        self.pid = 0
        self._afterwards = afterwards
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[int] = self._loop.create_future()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        threading.Thread(
            target=self._attend, args=(argv, env, cwd, stdin, output), name=f"waits for {argv[0]}", daemon=True
        ).start()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def started(self) -> int:
        """Wait until the program runs; its process id. Raises OSError. When cancelled, nothing is left of it."""
        try:
            self.pid = await asyncio.shield(self._started)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                self.pid = await self._started
                kill_group(self.pid)
                await self._ended
            raise
        return self.pid

    async def wait(self) -> int:
        """Wait for its end; may be awaited by several tasks."""
        return await asyncio.shield(self._ended)

    def _attend(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None, stdin: int, output: int) -> None:
        try:
            with _ONE_AT_A_TIME:
                process = subprocess.Popen(
                    argv, env=env, cwd=cwd, stdin=stdin, stdout=output, stderr=output, start_new_session=True
                )
                _OURS.add(process.pid)
        except (OSError, ValueError) as error:  # ValueError: a null byte in an argument
            self._tell(self._started.set_exception, error if isinstance(error, OSError) else OSError(str(error)))
            return
        self._tell(self._started.set_result, process.pid)
        code = process.wait()
        _OURS.discard(process.pid)
        self._tell(self._ended.set_result, code)
        self._afterwards()

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(what, *args)


async def wait_for_orphans() -> None:
    """Wait, for ever, for what our children leave behind, where that falls to us: to the first process of a container.

    Nobody else would, and each zombie keeps its number.
    """
    while os.getpid() == 1:
        await asyncio.sleep(_LOOK_SEC)
        _wait_for_adopted()


def _wait_for_adopted() -> None:
    """Wait for all that have ended and that were not started here; does not block.

    One of ours that has ended hides the others, until its own thread has waited for it.
    """
    if sys.platform != "linux" or not _ONE_AT_A_TIME.acquire(blocking=False):
        return
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in _OURS:
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass  # there is none
    finally:
        _ONE_AT_A_TIME.release()
