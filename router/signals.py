"""What the process's signals do, from before the start to after the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


class Signals:
    """Attributes:
    stop: called at each SIGTERM and SIGINT.
    reload: set by SIGHUP.
    """

    def __init__(self, stop: Callable[[], object]) -> None:
        self.stop = stop
        self.reload = asyncio.Event()
        self._again = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within the block. Windows has Ctrl-C alone."""
        loop = asyncio.get_running_loop()
        if sys.platform == "win32":
            before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(self._stop, signal.SIGINT))
            try:
                yield
            finally:
                signal.signal(signal.SIGINT, before)
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        _log.info("%s: %s", number.name, "ending at once" if self._again else "shutting down")
        self._again = True
        self.stop()

    def _reload(self) -> None:
        _log.info("SIGHUP: reading the configuration anew")
        self.reload.set()
