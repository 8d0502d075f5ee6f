"""The HTTP server: uvicorn, with an end of our own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from router.api.door import Door, Limits
from router.api.protocol import HttpProtocol

_BACKLOG = 2048
_LAST_WORDS_SEC = 0.3
_LOOK_SEC = 0.02
# Of the loop, until what a client has sent is a request that hears of the end: it is accepted, read, and begun.
_TURNS = 8
# One that takes no descriptor: there may be none left.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; port 0 takes any free one. Raises OSError with a sentence for people."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, since asyncio turns Nagle's delay off for sockets that say so, and only for those.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"Cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


def hush_uvicorn() -> None:
    """Keep uvicorn's words about its start and stop out of the log."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def config_of(app: ASGIApp, *, door: Door) -> uvicorn.Config:
    """uvicorn as it is used here: it listens, and leaves connections to a protocol of ours."""
    protocol = partial(HttpProtocol, door=door)
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


class Server(uvicorn.Server):
    """Serves until it is told to stop, and then lets what is open finish.

    uvicorn would refuse new connections from then on, wait for the old ones, and cut without a word what takes too
    long. Here whoever comes meanwhile is still answered, so that `/readyz` and a 503 tell what is going on.

    Args:
        on_listening: called once requests are accepted.
        on_exit: called at the first `exit`, before connections are waited for.
        on_deadline: called when open requests have had `drain()` seconds, or have finished before.
        on_hurry: called at each further `exit`.
        drain: how long open requests may take, asked when it matters.
        door: by which clients come in; without one the door of the default limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_listening: Callable[[], None],
        on_exit: Callable[[], None],
        on_deadline: Callable[[], None],
        on_hurry: Callable[[], None],
        drain: Callable[[], float],
        door: Door | None = None,
    ) -> None:
        super().__init__(config_of(app, door=door or Door(Limits())))
        self._on_listening = on_listening
        self._on_exit = on_exit
        self._on_deadline = on_deadline
        self._on_hurry = on_hurry
        self._drain = drain
        self._told = asyncio.Event()

    def exit(self) -> None:
        """Start to shut down; called again, hurry."""
        if self.should_exit:
            self.force_exit = True
            self._on_hurry()
            return
        self.should_exit = True
        self._told.set()
        self._on_exit()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def main_loop(self) -> None:
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the open connections finish, listening all the while; then close everything."""
        connections = cast("set[HttpProtocol]", self.server_state.connections)
        await self._hear_out(connections)
        early = set(connections)
        _close_soon(early)

        def are_served() -> bool:
            early.intersection_update(connections)
            return all(connection.lingering for connection in early)

        await self._until(are_served, self._drain())
        self._on_deadline()
        self.force_exit = False  # whoever has been told by now gets to hear it
        await self._until(lambda: not _has_callers(sockets or ()), _LAST_WORDS_SEC)
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await self._hear_out(connections)
        _close_soon(connections)
        await self._until(lambda: not connections, _LAST_WORDS_SEC)
        for connection in tuple(connections):
            connection.reset()
        tasks = tuple(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear_out(self, connections: Collection[HttpProtocol]) -> None:
        """Read what clients have sent, and give who has just come a moment to send it.

        A connection that is closed on an unread request is reset, and its client is not told why.
        """
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._until(lambda: not any(connection.silent for connection in connections), _LAST_WORDS_SEC)

    async def _until(self, met: Callable[[], bool], deadline: float) -> None:
        """Wait until it is met, or the deadline has passed, or there is a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while not (met() or self.force_exit):  # noqa: ASYNC110  connections tell nobody when they end
                    await asyncio.sleep(_LOOK_SEC)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not its business: see `router.signals`."""
        yield


def _has_callers(sockets: Iterable[socket.socket]) -> bool:
    """Whether somebody waits to be accepted, whom the kernel resets when the socket is closed."""
    with _Selector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _close_soon(connections: Iterable[HttpProtocol]) -> None:
    for connection in tuple(connections):
        connection.shutdown()
