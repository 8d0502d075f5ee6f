"""One process of llama-server, and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass

from router.backends.oom import OomWitness
from router.backends.port_pool import LOOPBACK
from router.backends.process import ChildProcess
from router.engine.ports import Upstream
from router.wire.pool import Pool


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process, the port it was told to listen on, the key it demands there, and who tells what ended it.

    Each process has a key of its own: whoever took the port of the last one may have been shown the last key.
    """

    port: int
    key: str
    process: ChildProcess
    witness: OomWitness

    def upstream(self) -> Upstream:
        """Where requests go to it, with connections of its own."""
        return Upstream(f"http://{LOOPBACK}:{self.port}", Pool(LOOPBACK, self.port), f"Bearer {self.key}")
