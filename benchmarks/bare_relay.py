"""The least a relay in Python can do, as a measure of what the router adds: plain ASGI, aiohttp, nothing else.

No key, no queue, no ids, no log, no metrics, no validation. Run as a program it serves on uvicorn, uvloop, httptools.
"""

from __future__ import annotations

import argparse

import aiohttp
import uvicorn
from starlette.types import Receive, Scope, Send

_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
_PASSED_ON = frozenset((b"content-type", b"content-length"))


class BareRelay:
    """An ASGI app that sends every request to one upstream.

    Args:
        upstream: its URL, without a path.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = await _read(receive)
        # The upstream closes after a stream though it does not say so: that connection must not be used again.
        session = self._fresh if b'"stream": true' in body else self._kept
        async with session.post(self._upstream + scope["path"], data=body, headers=_HEADERS) as response:
            passed = [(name.lower(), value) for name, value in response.raw_headers if name.lower() in _PASSED_ON]
            await send({"type": "http.response.start", "status": response.status, "headers": passed})
            while chunk := await response.content.readany():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with _session(force_close=False) as self._kept, _session(force_close=True) as self._fresh:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _session(*, force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=force_close),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


async def _read(receive: Receive) -> bytes:
    message = await receive()
    if not message.get("more_body", False):
        return bytes(message["body"])
    chunks = [message["body"]]
    while message.get("more_body", False):
        message = await receive()
        chunks.append(message.get("body", b""))
    return b"".join(chunks)


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay everything to one upstream.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, metavar="URL")
    options = parser.parse_args()
    uvicorn.run(
        BareRelay(options.upstream),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )


if __name__ == "__main__":
    main()
