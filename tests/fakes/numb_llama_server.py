"""A fake llama-server that is numb, or that grows. Run it as a program, with the fake's own flags.

NUMB=compute:S   computes for S seconds before the first token and hears nobody meanwhile, as a server without a
                 core to spare
NUMB=keep        never lets go of a slot that it has taken
NUMB=leak:MIB    keeps so much more memory of each request
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.fakes import fake_llama_server as fake
from tests.fakes.llama_words import Slot

MODE, _, AMOUNT = os.environ.get("NUMB", "").partition(":")
LEAKED: list[bytes] = []


class NumbServer(fake.FakeServer):
    async def _tokens(self, *asked: Any) -> AsyncIterator[str]:
        end = time.monotonic() + float(AMOUNT or 0)
        while MODE == "compute" and time.monotonic() < end:
            pass
        if MODE == "leak":
            LEAKED.append(b"x" * (int(AMOUNT) << 20))
        async for word in super()._tokens(*asked):
            yield word

    def _slot(self, slot: Slot) -> dict[str, Any]:
        kept = MODE == "keep" and slot.task >= 0
        return super()._slot(slot) | ({"is_processing": True} if kept else {})


if __name__ == "__main__":
    fake.FakeServer = NumbServer  # type: ignore[misc]
    fake.main()
