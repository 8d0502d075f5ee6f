"""A llama-server that keeps what it was sent and what it answered. Standard library only; run it as a program.

    recording_llama_server.py FOLDER PROGRAM [ARGUMENT…] -- [FLAG…]

PROGRAM is the real server; it gets the flags with another port, and stands behind this one. Each connection becomes two
files in FOLDER, `N.request` and `N.answer`: the bytes of either direction. The names are in the order of the
connections, also across restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_NAP_SEC = 0.01


def make_recording_binary(folder: Path, records: Path, *program: str) -> Path:
    """An executable to be named as the llama-server: it runs `program` and records into `records`."""
    records.mkdir()
    words = [sys.executable, "-I", str(Path(__file__)), str(records), *program, "--"]
    path = folder / "recording-llama-server"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


class Recorder:
    """Passes connections on to `port` and keeps their bytes."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = f"{time.monotonic_ns():020d}"
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            passing = (
                asyncio.create_task(self._passed(reader, server_writer, f"{number}.request")),
                asyncio.create_task(self._passed(server_reader, writer, f"{number}.answer")),
            )
            # Whoever hangs up first, the other side has to notice.
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
        finally:
            server_writer.close()
            writer.close()

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        with (self._folder / name).open("wb", buffering=0) as record, contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                record.write(data)
                writer.write(data)
                await writer.drain()


async def main(folder: Path, program: list[str], flags: list[str]) -> int:
    place = flags.index("--port") + 1
    port, flags[place] = int(flags[place]), str(free_port())
    inner = int(flags[place])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group gets it, so the real server does; this ends with it
    process = await asyncio.create_subprocess_exec(*program, *flags, preexec_fn=take_signals)
    ended = asyncio.create_task(process.wait())
    while not ended.done() and not accepts(inner):
        await asyncio.wait({ended}, timeout=_NAP_SEC)
    server = await asyncio.start_server(Recorder(folder, inner).connected, "127.0.0.1", port)
    code = await ended
    server.close()
    return code


def take_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
        return number


if __name__ == "__main__":
    end = sys.argv.index("--")
    program, flags = sys.argv[2:end], sys.argv[end + 1 :]
    # The embedded llama.cpp is a module of this repository, and runs in the router's state folder.
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    if "--port" not in flags:
        sys.exit(subprocess.run([*program, *flags], check=False).returncode)
    sys.exit(asyncio.run(main(Path(sys.argv[1]), program, flags)))
