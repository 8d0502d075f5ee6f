"""The access log: a line per request, gathered in memory and written many at a time.

No request waits for the log: where nobody reads the stream, lines are kept up to a bound, then dropped and counted.
(But for a terminal that cannot be opened once more, see `_Outlet`.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from router.telemetry.logs import Moment, cleaned_lines

_NAME = "router.access"
_DELAY_SEC = 0.05
_BATCH = 64 * 1024
_MOST = 1024 * 1024
_LAST_WORDS_SEC = 1.0
# A pipe that polls as writable takes as much without blocking (POSIX).
_PIPE_PIECE = 4096


class AccessLog:
    """Lines as `LineFormatter` makes them at INFO; they come up to `_DELAY_SEC` behind others of their time.

    To be used on the event loop, as a context manager: the last lines are written at its end.

    Args:
        stream: stderr if not given.
        enabled: if not given, whether INFO passes the logger `router.access`.

    Attributes:
        enabled: whether it is worth while to make a line.
    """

    __slots__ = ("_dropped", "_lines", "_moment", "_outlet", "_size", "_timer", "_unsent", "enabled")

    def __init__(self, stream: TextIO | None = None, *, enabled: bool | None = None) -> None:
        self.enabled = logging.getLogger(_NAME).isEnabledFor(logging.INFO) if enabled is None else enabled
        self._outlet = _Outlet(sys.stderr if stream is None else stream)
        self._moment = Moment()
        self._lines: list[str] = []
        self._size = 0  # characters of the lines
        self._unsent = b""
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.enabled = False
        self._write_out(patience=_LAST_WORDS_SEC)
        self._outlet.close()

    def write(self, line: str) -> None:
        """Add a line, or drop it if too much waits already; never blocks for long."""
        if not self.enabled:
            return
        if self._size + len(self._unsent) > _MOST:
            self._dropped += 1
            return
        self._lines.append(self._headed("INFO   ", line))
        self._size += len(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DELAY_SEC, self.flush)
        if self._size > _BATCH and not self._unsent:
            self.flush()

    def flush(self) -> None:
        """Write what the stream takes now; the rest is tried again a moment later."""
        self._write_out(patience=0.0)
        if self._unsent or self._lines:
            self._timer = asyncio.get_running_loop().call_later(_DELAY_SEC, self.flush)

    def _write_out(self, *, patience: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unsent = self._outlet.take(self._unsent, patience)
        if self._unsent:
            return
        if self._dropped:
            told = f"{self._dropped} lines were dropped: the log was not read fast enough"
            self._lines.append(self._headed("WARNING", told))
            self._dropped = 0
        if self._lines:
            batch = f"{cleaned_lines(self._lines)}\n".encode("utf-8", "backslashreplace")
            self._lines.clear()
            self._size = 0
            self._unsent = self._outlet.take(batch, patience)

    def _headed(self, level: str, message: str) -> str:
        return f"{self._moment.at(time.time())} {level} {_NAME}  {message}"


class _Outlet:
    """Writes to a stream without waiting for its reader, where the system can tell of one.

    A terminal polls as writable as soon as it takes a single byte, so it is opened once more, non-blocking; to set that
    on the stream itself would change it for everybody who has it. One that cannot be opened (it belongs to another
    user, say) is waited for.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor: int | None = None
        self._poll: select.poll | None = None
        self._piece = _PIPE_PIECE
        self._terminal = _terminal(stream)
        try:
            self._descriptor = stream.fileno() if self._terminal is None else self._terminal
            kind = os.fstat(self._descriptor).st_mode
        except OSError:
            return
        if stat.S_ISREG(kind):
            self._piece = _MOST
        elif hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)

    def take(self, data: bytes, patience: float) -> bytes:
        """Write whole lines, for at most `patience` seconds where the stream is full; returns what is left.

        What a broken stream does not take is lost, as there is nobody to tell.
        """
        if self._descriptor is None:
            self._stream.write(data.decode())
            return b""
        done, deadline = 0, time.monotonic() + patience
        try:
            while done < len(data) and self._writable(deadline):
                end = data.rfind(b"\n", done, done + self._piece) + 1 or done + self._piece
                done += os.write(self._descriptor, data[done:end])
        except BlockingIOError:
            pass  # it is non-blocking, and full
        except OSError:
            return b""
        return data[done:]

    def close(self) -> None:
        """Nothing more is taken."""
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = self._descriptor = None

    def _writable(self, deadline: float) -> bool:
        return self._poll is None or bool(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _terminal(stream: TextIO) -> int | None:
    """The stream's terminal, opened once more and non-blocking; None where it has none."""
    try:
        return os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
