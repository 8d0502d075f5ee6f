"""The smallest router: starts children, says who they are, and waits to be killed.

    python -m tests.fakes.lone_router STATE_DIR BINARY BASE_PORT COUNT [--uvloop] [--lose-guard] [FLAG...]

Prints one JSON line, `{"children": [pid, …], "guard": pid}`, when all children are up. With `--lose-guard` it kills its
guard first and waits for the next one; with `--uvloop` it runs on that event loop, as the real one does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import uvloop

from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.core.types import HOST, Placement
from tests.support.waiting import wait_until

OWN = {"--lose-guard", "--uvloop"}


async def main(state_dir: str, binary: str, base_port: str, count: str, *flags: str) -> None:
    spec = LlamaServerSpec(Path("model.gguf"), flags=tuple(flag for flag in flags if flag not in OWN))
    launcher = LlamaServerLauncher(
        {"m": spec}, state_dir=Path(state_dir), binary=Path(binary), base_port=int(base_port)
    )
    children = [await launcher.launch("m", replica, Placement({HOST: 1})) for replica in range(int(count))]
    await asyncio.gather(*(child.ready() for child in children))
    guard = launcher._guard
    if "--lose-guard" in flags:
        lost = guard.pid
        assert lost is not None
        os.kill(lost, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: guard.pid != lost)
    sys.stdout.write(json.dumps({"children": [child.pid for child in children], "guard": guard.pid}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run = uvloop.run if "--uvloop" in sys.argv else asyncio.run
    run(main(*sys.argv[1:]))
