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

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within the block. On Windows Ctrl-C remains, which cancels the main task."""
        if sys.platform == "win32":
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        _log.info("%s: shutting down", number.name)
        self.stop()

    def _reload(self) -> None:
        _log.info("SIGHUP: reading the configuration anew")
        self.reload.set()
