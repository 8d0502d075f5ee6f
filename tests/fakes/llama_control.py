"""The fake llama-server's control port: a Unix socket on which it is told how to behave. Standard library only.

The child connects to the socket that `--control PATH` names and says who it is, in one line of JSON. It begins to load
only after it has been told something, so that it can be told how to fail at that too. Each line that it gets is an
order, `{"set": {switch: value, …}}` or `{"do": deed, "amount": number}`, and is answered by a line once it is obeyed.
That the connection ends tells that the child has. The other end is `tests.support.control.Control`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from typing import Any

from tests.fakes.llama_faults import DEEDS


class ControlPort:
    """The child's end; `options` are changed in place."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and wait for the first order."""
        reader, writer = await asyncio.open_unix_connection(self._options.control)
        await self._say(writer, {"pid": os.getpid(), "model": self._options.alias, "port": self._options.port})
        await self._obey(reader, writer)
        self._listening = asyncio.create_task(self._listen(reader, writer))

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                await self._obey(reader, writer)

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = json.loads(await reader.readline() or b"{}")
        for switch, value in order.get("set", {}).items():
            if not hasattr(self._options, switch):
                raise AttributeError(f"the fake llama-server has no switch {switch!r}")
            setattr(self._options, switch, value)
        if "do" in order:
            DEEDS[order["do"]](order.get("amount", 0))
        if not reader.at_eof():
            await self._say(writer, {"done": True})

    async def _say(self, writer: asyncio.StreamWriter, document: Any) -> None:
        writer.write(json.dumps(document).encode() + b"\n")
        await writer.drain()
