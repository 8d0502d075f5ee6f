"""The process's signals, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# Hears a signal while its loop sleeps; what comes afterwards comes too late for anything.
PROGRAM = """
import asyncio, os, signal, uvloop
from router.signals import Signals

async def main():
    stopped = asyncio.Event()
    with Signals(stopped.set).handled():
        print("ready", flush=True)
        await stopped.wait()

uvloop.run(main())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    os.kill(os.getpid(), number)
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_that_comes_after_the_end_changes_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "ended\n"
        assert process.wait(timeout=10) == 0
