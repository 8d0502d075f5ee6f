"""The HTTP server: uvicorn with shutdown signals that reach the engine first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from router.api.door import Door, Limits
from router.api.protocol import HttpProtocol

_BACKLOG = 2048
_LAST_WORDS_SEC = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


def config_of(app: ASGIApp, *, graceful: int, door: Door) -> uvicorn.Config:
    """uvicorn as it is used here: it listens and ends, and leaves connections to a protocol of ours."""
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
        timeout_graceful_shutdown=graceful,
    )


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT.

    uvicorn waits for connections before anything else learns of the signal, and raises the signal anew afterwards,
    which would end the process before the children are stopped. So the signals are handled here: the first calls
    `on_exit` and lets open requests finish, the second drops them.

    Args:
        on_listening: called once requests are accepted.
        on_exit: called at the first signal, before connections are waited for.
        on_deadline: called when open requests have not finished `drain` seconds later.
        door: by which clients come in; without one the door of the default limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_listening: Callable[[], None],
        on_exit: Callable[[], None],
        on_deadline: Callable[[], None],
        drain: float,
        door: Door | None = None,
    ) -> None:
        # Its own way out cuts connections without a word, so it comes after `on_deadline`.
        super().__init__(config_of(app, graceful=math.ceil(drain + _LAST_WORDS_SEC), door=door or Door(Limits())))
        self._on_listening = on_listening
        self._on_exit = on_exit
        self._on_deadline = on_deadline
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        try:
            for number in _SIGNALS:
                loop.add_signal_handler(number, self.exit, number)
        except NotImplementedError:  # Windows
            with super().capture_signals():
                yield
            return
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def exit(self, number: int) -> None:
        """Start to shut down; called again, hurry."""
        logging.getLogger(__name__).info("%s: shutting down", signal.Signals(number).name)
        if self.should_exit:
            self.force_exit = True
            return
        self._on_exit()
        asyncio.get_running_loop().call_later(self._drain, self._on_deadline)
        self.should_exit = True
