"""HTTP as the fake llama-server speaks it. Standard library only."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Protocol


class Writer(Protocol):
    """Where an answer goes; an `asyncio.StreamWriter`, or one that breaks it (`llama_faults`)."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.body or b"{}")
        return document if isinstance(document, dict) else {}


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request; None at the end of the connection."""
    line = await reader.readline()
    if not line.strip():
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)


async def send(writer: Writer, status: int, kind: str, body: bytes) -> bool:
    head = f"HTTP/1.1 {status} Fake\r\nServer: llama.cpp\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True


async def send_json(writer: Writer, status: int, document: Any) -> bool:
    return await send(writer, status, "application/json; charset=utf-8", json.dumps(document).encode())


async def send_event(writer: Writer, document: Any) -> None:
    await send_chunk(writer, b"data: " + json.dumps(document).encode() + b"\n\n")


async def send_chunk(writer: Writer, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()
