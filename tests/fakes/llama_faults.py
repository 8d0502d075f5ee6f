"""How the fake llama-server breaks its answers, and what else it can be made to do. Standard library only."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import NoReturn

# What breaks the framing or the sense of a stream, by switch: sent in place of its second event.
GARBLED: Mapping[str, bytes] = {
    "bad_chunking": b"zz\r\nthis is no chunk\r\n",
    "bad_sse": b"26\r\ndata: {\"choices\": [{\n\nwithout a colon\n\r\n",
}  # fmt: skip
_LOOK_SEC = 0.02  # until a switch that was set is looked at again
NO_HTTP = b"HTTP/9.9 banana\r\n\r\nneither head nor body"


class FaultyWriter:
    """Writes one answer, and breaks it after as many bytes as it was told.

    The end of the connection raises ConnectionResetError where it was made, as if the other side had left.
    """

    def __init__(self, writer: asyncio.StreamWriter, options: argparse.Namespace) -> None:
        self._writer = writer
        self._options = options
        self._sent = 0

    def write(self, data: bytes) -> None:
        limit, deed = self._breaking_point()
        if limit is None or self._sent + len(data) < limit:
            self._sent += len(data)
            self._writer.write(data)
            return
        self._writer.write(data[: max(0, limit - self._sent)])
        deed()
        raise ConnectionResetError("broken off, as told")

    async def drain(self) -> None:
        await self._writer.drain()

    def _breaking_point(self) -> tuple[int | None, Callable[[], None]]:
        if (limit := self._options.crash_after_bytes) is not None:
            return limit, crash
        if (limit := self._options.reset_after_bytes) is not None:
            return limit, lambda: reset(self._writer)
        return self._options.close_after_bytes, self._writer.close


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other side sees a reset, and not an end."""
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def crash() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives this")


def refuse_port(options: argparse.Namespace) -> NoReturn:
    say(f"start: couldn't bind HTTP server socket, hostname: {options.host}, port: {options.port}")
    say("main: exiting due to HTTP server error")
    os._exit(1)


async def switched_off(on: Callable[[], bool]) -> None:
    """Wait until a switch that stays on for as long as it likes is off."""
    while on():  # noqa: ASYNC110  it is set from outside
        await asyncio.sleep(_LOOK_SEC)


_leaked: list[bytearray] = []


def leak(mebibytes: int) -> None:
    """Hold so much more memory, in pages that are really there."""
    block = bytearray(mebibytes << 20)
    block[::4096] = b"x" * len(block[::4096])
    _leaked.append(block)


def flood(mebibytes: int) -> None:
    for _ in range(mebibytes * 1024):
        sys.stderr.write("f" * 1023 + "\n")
    say("the flood is over")


def fork(*, own_session: bool = False) -> None:
    """Have a grandchild in the same process group, unless it gets a session of its own."""
    grandchild = subprocess.Popen(["sleep", "1000"], start_new_session=own_session)
    say(f"grandchild {grandchild.pid}")


_dead: list[subprocess.Popen[bytes]] = []


def fork_zombies(count: int) -> None:
    """Have so many grandchildren that have ended, and that nobody waits for."""
    _dead.extend(subprocess.Popen(["true"]) for _ in range(count))
    for grandchild in _dead:
        os.waitid(os.P_PID, grandchild.pid, os.WEXITED | os.WNOWAIT)


def become_zombie() -> None:
    """End the main thread alone: the process is a zombie, and nobody can wait for it while another thread lives."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)  # exit, of the thread that calls


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


# What can be done at once, with one number each: `{"do": "leak", "amount": 3}`.
DEEDS: Mapping[str, Callable[[int], object]] = {
    "leak": leak,
    "flood": flood,
    "long_line": lambda kibibytes: say("x" * kibibytes * 1024),
    "fork": lambda _: fork(),
    "fork_zombies": fork_zombies,
    "become_zombie": lambda _: become_zombie(),
    "exit": os._exit,
    "signal": lambda number: os.kill(os.getpid(), number),
    "ignore_term": lambda _: asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None),
}
