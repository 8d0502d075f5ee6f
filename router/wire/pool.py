"""The connections to one upstream: kept while idle, never limited, all closed together."""

from __future__ import annotations

import asyncio
from time import monotonic

from router.wire.connection import Connection


class Pool:
    """Hands out connections and takes them back. Not limited: who may ask is decided before.

    Args:
        host: a numeric address, so that nothing is looked up.
        connect_timeout: seconds.
        keepalive: seconds that an idle connection is kept. llama-server closes one after 5; it must not be about to do
            so when it is used.

    Attributes:
        closed: no more connections are to be had.
    """

    def __init__(self, host: str, port: int, *, connect_timeout: float = 5.0, keepalive: float = 4.0) -> None:
        self.closed = False
        self._host = host
        self._port = port
        self._where = f"{host}:{port}"
        self._connect_timeout = connect_timeout
        self._keepalive = keepalive
        self._open: set[Connection] = set()
        self._kept: dict[Connection, float] = {}  # since when, the oldest first
        self._expiry: asyncio.TimerHandle | None = None  # of the oldest

    def idle(self) -> Connection | None:
        """The connection that was given back last; None: `connect`."""
        while self._kept:
            connection, _ = self._kept.popitem()
            if connection.reusable:  # or it is being closed
                return connection
        return None

    async def connect(self) -> Connection:
        """A fresh connection, to be given back or aborted. Raises OSError (TimeoutError is one)."""
        connection = Connection(self._where, self._gone)
        self._open.add(connection)
        try:
            async with asyncio.timeout(self._connect_timeout):
                # Every event loop turns Nagle off by itself.
                await asyncio.get_running_loop().create_connection(lambda: connection, self._host, self._port)
        except BaseException as error:
            self._open.discard(connection)
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"{self._where} took no connection within {self._connect_timeout:g} s") from error
            raise
        if self.closed:
            connection.abort()
            raise ConnectionAbortedError(f"the connections to {self._where} have been closed")
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request if it can be used again, close it otherwise; an open answer is given up."""
        if not connection.reusable:
            connection.abort()
            return
        self._kept[connection] = monotonic()
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._keepalive, self._expire)

    def close(self) -> None:
        """Close all connections, kept and in use; open answers break."""
        self.closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._kept.clear()
        for connection in list(self._open):
            connection.break_off(f"the connections to {self._where} are being closed")

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._kept.pop(connection, None)

    def _expire(self) -> None:
        self._expiry = None
        for connection, since in list(self._kept.items()):
            left = since + self._keepalive - monotonic()
            if left > 0:
                self._expiry = asyncio.get_running_loop().call_later(left, self._expire)
                break
            del self._kept[connection]
            connection.abort()
