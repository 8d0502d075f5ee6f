"""What the process's signals do, from before the start to after the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
        """Within the block; from its end on they do nothing. Windows has Ctrl-C alone.

        Who stops the router twice may do it so late that only the interpreter's own end is left. The loop's
        `add_signal_handler` would not do: it gives each signal back its default, by which it ends the process in the
        middle of that, with another exit code.
        """
        loop = asyncio.get_running_loop()
        ways = {signal.SIGINT: self._stop}
        if sys.platform != "win32":
            ways |= {signal.SIGTERM: self._stop, signal.SIGHUP: self._reload}

        def hear(number: int, _: FrameType | None) -> None:
            told = signal.Signals(number)
            loop.call_soon_threadsafe(ways[told], told)

        for number in ways:
            signal.signal(number, hear)
        try:
            yield
        finally:
            for number in ways:
                signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: signal.Signals) -> None:
        _log.info("%s: %s", number.name, "ending at once" if self._again else "shutting down")
        self._again = True
        self.stop()

    def _reload(self, number: signal.Signals) -> None:
        _log.info("%s: reading the configuration anew", number.name)
        self.reload.set()
